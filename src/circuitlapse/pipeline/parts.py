"""Which parts of a model a fine-tune may move: those of a named set, or those that are listed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from transformers import AutoModelForCausalLM

from circuitlapse.compare.choice import old_circuit
from circuitlapse.compare.matched import matched_heads
from circuitlapse.config import Experiment
from circuitlapse.config.parts import OLD_CIRCUIT
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import Model, quiet
from circuitlapse.pipeline.directory import base_directory
from circuitlapse.pipeline.plan import Job
from circuitlapse.pipeline.plan_controls import OLD_HEADS, RANDOM_SET
from circuitlapse.pipeline.prompts import Prompts
from circuitlapse.records import Store
from circuitlapse.records.store import write_json
from circuitlapse.tasks import get_task


@dataclass(frozen=True)
class OldCircuit:
    """The heads that the base uses on the old task, and random sets that match them.

    Attributes:
        heads: Chosen on validation prompts, as the fates choose them.
        random_sets: As many heads in each layer, drawn at random.
        refused: Why there are none; else empty.
    """

    heads: Sequence[str]
    random_sets: Sequence[Sequence[str]]
    refused: str


def choose(job: Job, store: Store, experiment: Experiment, base: Model) -> None:
    """Choose the heads of the old circuit and the random sets beside them."""
    old, controls = experiment.tasks.old, experiment.controls
    prompts = Prompts(store, old, base.tokenizer)
    variants = get_task(old).families[experiment.measure.corruptions[0]]
    pairs = {v: prompts.pairs("validation", experiment.compare.group_prompts, v) for v in variants}
    found = old_circuit(base, pairs)
    refused = found.refused or ("" if found.old_heads else "the base uses no head on the old task")
    sets = []
    if not refused:
        sets = matched_heads(base.graph, found.old_heads, controls.random_sets, controls.seed)
    document = asdict(OldCircuit(found.old_heads, sets, refused))
    with store.write(job.outputs[0], job.key) as path:
        write_json(path, document)


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
        if found.refused:
            return (), found.refused
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
    found, refused = parts_of(
        store, experiment, wanted if isinstance(wanted, str) else " ".join(wanted)
    )
    if refused:
        raise CircuitlapseError(
            f"finetune.train_only = {wanted!r} leaves nothing to train: {refused}",
            fix="Name parts of the model in finetune.train_only, or leave it out",
        )
    return found
