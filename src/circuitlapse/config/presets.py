"""Experiments that the tool writes itself: the demo, and a comparison of two models."""

from pathlib import Path
from typing import Any, Literal, get_args

from circuitlapse.config.base import Base
from circuitlapse.config.controls import SETS, Controls
from circuitlapse.config.experiment import Compare, Experiment, Measure
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

    A tenth of its training prompts rehearse the old task: without them some organisms answer a
    few old prompts with a word that is none of the listed names.

    Args:
        organism: The base's recipe.
        seed: Of its pretraining.
        full: Run the control fine-tunes and the repeats of placebos too, and put four times as
            many prompts through grafts of QK and OV, patches across models and grafts in between.
        pretrain: Pretrain the organism here even where the package ships its weights.
    """
    finetune = Finetune.model_validate({"replay_fraction": 0.1})
    controls: dict[str, Any] = {"unrelated": "induction", "few_shot": (0, 2, 4, 8)}
    if full:
        controls |= {"train_only": SETS, "placebos": get_args(PlaceboKind)}
    compare = {"intervention_prompts": 256} if full else {}
    return Experiment(
        base=Base.model_validate({"organism": organism, "seed": seed, "pretrain": pretrain}),
        finetune=finetune,
        measure=Measure.model_validate({"patch_at": 8}),
        compare=Compare.model_validate(compare),
        controls=Controls.model_validate(controls),
    )


def comparison(
    base: Path | str, tuned: Path | str, old: str, new: str, prompts: int | None = None
) -> Experiment:
    """Return the experiment that compares two models without checkpoints in between.

    Args:
        base: Directory or Hub name of the model before fine-tuning; step 0.
        tuned: Likewise after it; step 1.
        old: The old task.
        new: The new task.
        prompts: Prompts for behaviour, circuits, groups and grafts alike; the defaults without it.

    Raises:
        CircuitlapseError: If a value is not valid.
    """
    number = {} if prompts is None else {"prompts": prompts, "circuit_prompts": prompts}
    groups = {} if prompts is None else {"group_prompts": prompts, "graft_prompts": prompts}
    described = {
        "checkpoints": {0: str(base), 1: str(tuned)},
        "base": {"path": str(base)},
        "tasks": {"old": old, "new": new},
        "measure": number,
        "compare": groups,
    }
    return validated(described, "what is to be compared")
