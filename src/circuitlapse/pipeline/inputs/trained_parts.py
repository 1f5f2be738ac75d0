"""Which parts of a model a fine-tune may move: those of a named set, or those that are listed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import AutoModelForCausalLM

from circuitlapse.config.controls import RANDOM_SET
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.section import OLD_CIRCUIT
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.quiet import quiet
from circuitlapse.pipeline.inputs.base_files import base_directory
from circuitlapse.records.layout import OLD_HEADS
from circuitlapse.records.store import Store


@dataclass(frozen=True)
class OldCircuit:
    """The old-task heads, and random sets of as many other heads.

    Attributes:
        heads: Chosen on validation prompts, as for what carries the new ability.
        random_sets: As many heads in each layer or in the nearest ones, none of them among these.
        not_reported: Why there are none; else empty.
    """

    heads: Sequence[str]
    random_sets: Sequence[Sequence[str]]
    not_reported: str


def parts_of(
    store: Store, experiment: Experiment, name: str, repeat: int = 0
) -> tuple[Sequence[str], str]:
    """Name the parts that are trained, or say why nothing is.

    Args:
        store: The run's artifacts.
        experiment: What is run.
        name: A named set, or parts joined by spaces.
        repeat: Which of several random sets.
    """
    if name in (OLD_CIRCUIT, RANDOM_SET):
        found = OldCircuit(**json.loads(store.read(OLD_HEADS)))
        if found.not_reported:
            return (), found.not_reported
        if name == OLD_CIRCUIT:
            return found.heads, ""
        if repeat < len(found.random_sets):
            return found.random_sets[repeat], ""
        return (), f"there are only {len(found.random_sets)} other sets of as many heads"
    if name == "mlps":
        with quiet():
            config = AutoModelForCausalLM.from_pretrained(base_directory(experiment)).config
        return [f"m{layer}" for layer in range(config.num_hidden_layers)], ""
    return name.split(), ""


def trained_parts(store: Store, experiment: Experiment) -> Sequence[str]:
    """The only parts that the fine-tune itself moves; none where it moves everything.

    Raises:
        CircuitlapseError: If there is nothing that it could train.
    """
    wanted = experiment.finetune.train_only
    if not wanted:
        return ()
    found, not_reported = parts_of(
        store, experiment, wanted if isinstance(wanted, str) else " ".join(wanted)
    )
    if not_reported:
        raise CircuitlapseError(
            f"finetune.train_only = {wanted!r} leaves nothing to train: {not_reported}",
            fix="Name parts of the model in finetune.train_only, or leave it out",
        )
    return found
