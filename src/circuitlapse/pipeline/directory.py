"""Where the base model lies; an organism is made, or taken from the cache."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from circuitlapse.config import Experiment
from circuitlapse.models import quiet
from circuitlapse.models.files import files_of
from circuitlapse.pipeline.progress import Advance
from circuitlapse.training import get_recipe, organism


def base_directory(experiment: Experiment, advance: Advance | None = None) -> Path | str:
    """Where the base model is: a path of the user's, or an organism, pretrained if need be."""
    base = experiment.base
    if base.organism is None:
        return base.source

    def report(step: int, steps: int, status: str) -> None:
        if advance is not None:
            advance(step, steps, "" if step else status)

    recipe = get_recipe(base.organism)
    return organism(recipe, base.seed, progress=report, shipped=not base.pretrain)


def base_tokenizer(experiment: Experiment) -> PreTrainedTokenizerBase:
    """The tokenizer of the base, and so of every checkpoint."""
    taken = experiment.checkpoints
    base = files_of(taken[0]).directory if isinstance(taken, dict) else base_directory(experiment)
    with quiet():
        return AutoTokenizer.from_pretrained(base)
