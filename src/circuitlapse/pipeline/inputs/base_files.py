"""Where the base model lies; an organism is made, or taken from the package or the cache."""

import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from circuitlapse.config.experiment import Experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.files import files_of
from circuitlapse.models.files.quiet import quiet
from circuitlapse.organisms.organism import WEIGHTS, organism
from circuitlapse.organisms.recipe import get_recipe
from circuitlapse.pipeline.job import Advance
from circuitlapse.records.store import Store, content_hash
from circuitlapse.tasks.registry import get_task


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


def old_items(experiment: Experiment) -> int:
    """How many of the fine-tune's prompts are of the old task; they come first."""
    n = experiment.finetune.old_prompts()
    return min(n, get_task(experiment.tasks.old).n_items("train") or n)


def check_same_base(base: Path | str, store: Store) -> None:
    """Refuse an organism that was made again, and differently, since the run began.

    Raises:
        CircuitlapseError: Naming where it is.
    """
    validated = json.loads(store.read("base.json")).get("validation")
    if validated is None:
        return
    if content_hash(Path(base) / WEIGHTS) != validated["weights_sha256"]:
        raise CircuitlapseError(
            "the organism in the cache is not the one that this run began with",
            got=str(base),
            fix="Start a new run with another --out, or bring the cache of the first start back",
        )
