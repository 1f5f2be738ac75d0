"""Built-in experiments: the demo, and a comparison of two models."""

from pathlib import Path
from typing import Any, Literal, get_args

from circuitlapse.config.base import Base
from circuitlapse.config.controls import SETS, Controls
from circuitlapse.config.experiment import Experiment, Measure
from circuitlapse.config.finetune import Finetune, PlaceboKind
from circuitlapse.config.toml import validated


def demo_experiment(
    organism: Literal["default", "natural"] = "default",
    seed: int = 0,
    *,
    full: bool = False,
    pretrain: bool = False,
) -> Experiment:
    """Return the experiment that ``circuitlapse demo`` runs.

    A tenth of the training prompts replay the old task: without them some organisms answer a few
    old prompts with a word that is none of the candidates.

    Args:
        organism: Recipe of the base.
        seed: Seed of its pretraining.
        full: Add the control fine-tunes and repeats of placebos.
        pretrain: Pretrain the organism here, also if it is shipped.
    """
    finetune = Finetune.model_validate({"replay_fraction": 0.1})
    controls: dict[str, Any] = {"unrelated": "induction", "few_shot": (0, 2, 4, 8)}
    if full:
        controls |= {"train_only": SETS, "placebos": get_args(PlaceboKind)}
    return Experiment(
        base=Base.model_validate({"organism": organism, "seed": seed, "pretrain": pretrain}),
        finetune=finetune,
        measure=Measure.model_validate({"prompts": 512, "patch_at": 8}),
        controls=Controls.model_validate(controls),
    )


def comparison(
    base: Path | str,
    tuned: Path | str,
    old: str,
    new: str,
    prompts: int | None = None,
    *,
    bits: bool = True,
) -> Experiment:
    """Return the experiment that compares two models, the base as step 0 and the tuned as step 1.

    Raises:
        CircuitlapseError: If a value is not valid.
    """
    described = {
        "checkpoints": {0: str(base), 1: str(tuned)},
        "base": {"path": str(base)},
        "tasks": {"old": old, "new": new},
        **prompt_counts(prompts),
    }
    experiment = validated(described, "the comparison")
    return experiment if bits else without_bits(experiment)


def without_bits(experiment: Experiment) -> Experiment:
    """Return the experiment without the trainings that measure bits_ratio."""
    compare = experiment.compare.model_copy(update={"bits": False})
    return experiment.model_copy(update={"compare": compare})


def prompt_counts(prompts: int | None) -> dict[str, dict[str, int]]:
    """Return the sections that set all numbers of prompts to one; none without a number."""
    if prompts is None:
        return {}
    return {
        "measure": {"prompts": prompts, "circuit_prompts": prompts},
        "compare": {
            "carrier_prompts": prompts,
        },
    }
