"""The embedded model organism (Hubinger et al. 2023): a small GPT-2 with known abilities.

It solves the old task and fails on the new one; the gate checks this. Pretraining takes a minute or
two on a CPU and needs no download. A finished organism is cached under the hash of everything that
it depends on. The default one is shipped with the package.
"""

import hashlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.models.files.quiet import save_model
from circuitlapse.organisms.corpus import rows
from circuitlapse.organisms.pretraining import steps, torch_threads, untrained_model
from circuitlapse.organisms.recipe import RECIPES, Recipe, Stage
from circuitlapse.organisms.tokenizer import build_tokenizer
from circuitlapse.records.store import ABANDONED, Store, cache_home, content_hash, write_json
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.templates import CONTINUATIONS, OPENINGS
from circuitlapse.tasks.tokenization import tokenize

Progress = Callable[[int, int, str], None]
"""Called after every step with the steps done, the steps planned, and a short status."""

WEIGHTS = "model.safetensors"
SHIPPED = Path(str(resources.files("circuitlapse.organisms").joinpath("shipped")))
"""Organisms that are shipped with the package, each in a directory ``RECIPE-SEED``."""
_ABOUT = "organism.json"
# Fixed numbers: another one rounds differently and gives another organism. Bases with unused heads
# are made in parallel processes, with one thread each.
_THREADS, _THREADS_BLANK = 2, 1


def organism(
    recipe: Recipe,
    seed: int,
    cache_dir: Path | str | None = None,
    progress: Progress | None = None,
    *,
    shipped: bool = True,
) -> Path:
    """Return the directory of an organism, pretraining it if it is neither shipped nor cached.

    ``AutoModelForCausalLM`` and ``AutoTokenizer`` load it; ``organism.json`` has the recipe and the
    gate's figures. The default ``cache_dir`` is the environment variable ``CIRCUITLAPSE_CACHE``,
    else the user's cache directory. ``progress`` is also called with 0 steps done and the reason,
    if shipped weights cannot be used.

    Raises:
        CircuitlapseError: If the gate does not hold after the last round.
    """
    home = cache_home(cache_dir) / "organisms"
    key = organism_key(recipe, seed)
    target = home / f"{recipe.name}-{seed}-{key[:16]}"
    ready = SHIPPED / f"{recipe.name}-{seed}"
    for directory in (ready, target) if shipped else (target,):
        if _is_whole(directory, key):
            return directory
    if shipped and progress is not None and recipe == RECIPES[recipe.name] and ready.exists():
        progress(0, recipe.steps, "the shipped organism does not fit its recipe: pretraining it")
    Store(home).sweep(ABANDONED)
    made = pretrain(recipe, seed, home, progress)
    if target.exists():
        if _is_whole(target, key):  # another process was faster
            shutil.rmtree(made)
            return target
        shutil.rmtree(target)
    made.rename(target)
    return target


def organism_key(recipe: Recipe, seed: int) -> str:
    """Hash everything that an organism depends on: recipe, seed, templates and words."""
    parts = {
        "recipe": recipe.sha256,
        "seed": seed,
        "templates": [
            template.text
            for table in (OPENINGS, CONTINUATIONS)
            for group in table.values()
            for template in group
        ],
        # A sample stands for the generator, and for the split of the name pairs.
        "text": [rows(random.Random(0), stage.weights, 200) for stage in recipe.stages],
        "vocabulary": sorted(build_tokenizer().get_vocab().items()),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def pretrain(
    recipe: Recipe, seed: int, into: Path | str | None = None, progress: Progress | None = None
) -> Path:
    """Pretrain an organism until its gate holds, and return the new directory in ``into``.

    The default of ``into`` is the system's temporary directory.

    Raises:
        CircuitlapseError: If the gate does not hold after the last round.
    """
    with torch_threads(_THREADS_BLANK if recipe.blank_heads else _THREADS):
        return _pretrain(recipe, seed, into, progress)


def _pretrain(
    recipe: Recipe, seed: int, into: Path | str | None, progress: Progress | None
) -> Path:
    started = time.monotonic()
    tokenizer = build_tokenizer()
    model = untrained_model(recipe, seed, tokenizer)
    model.set_attn_implementation("eager")  # a tenth faster than the fused kernel on short rows
    rng = random.Random(f"organism {recipe.sha256} {seed}")
    validation = tokenize(get_task("ioi2").items("validation", 256), tokenizer, "names")

    def old_accuracy() -> float:
        return behaviour(load_model(model), validation).correct.mean(dtype=np.float64).item()

    stages, peak, done, old, new = recipe.stages, recipe.learning_rate, 0, 0.0, 0.0
    for _ in range(recipe.extra_rounds + 1):
        for loss, left in steps(model, tokenizer, recipe, rng, stages, peak, old_accuracy):
            done += 1
            if progress is not None:
                progress(done, done + left, f"loss {loss:.2f}")
        stages = (Stage(steps=recipe.extra_steps, weights=recipe.stages[-1].weights),)
        peak = recipe.learning_rate * recipe.extra_rate
        old, new = gate_figures(model, tokenizer, recipe.gate_prompts)
        if recipe.gate_holds(old, new):
            break
    else:
        raise CircuitlapseError(
            f"the organism {recipe.name!r} with seed {seed} did not pass its gate: it needs "
            f"ioi2 >= {recipe.old_at_least} and {recipe.new_at_least} <= ioi3 <= "
            f"{recipe.new_at_most}",
            got=f"ioi2 {old:.3f}, ioi3 {new:.3f} after {done} steps",
            fix="Try another seed, or a recipe with more steps",
        )
    if into is not None:
        Path(into).mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=".draft-", dir=into))
    save_model(model, tokenizer, directory)
    about = {
        "key": organism_key(recipe, seed),
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": recipe.sha256,
        "seed": seed,
        "steps": done,
        "seconds": round(time.monotonic() - started, 1),
        "gate": {"prompts": recipe.gate_prompts, "ioi2": old, "ioi3_among": new},
        "weights_sha256": content_hash(directory / WEIGHTS),
    }
    write_json(directory / _ABOUT, about)
    return directory


def gate_figures(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int
) -> tuple[float, float]:
    """Return the old task's accuracy over the vocabulary and the new task's over the candidates.

    Both are measured on ``n`` prompts with held-out name pairs.
    """
    loaded = load_model(model)
    old, new = (
        behaviour(loaded, tokenize(get_task(task).items("validation", n), tokenizer, "names"))
        for task in ("ioi2", "ioi3")
    )
    rights = (old.correct, new.candidate_correct)
    on_old, on_new = (right.mean(dtype=np.float64).item() for right in rights)
    return on_old, on_new


def _is_whole(directory: Path, key: str) -> bool:
    try:
        about = json.loads((directory / _ABOUT).read_text())
        return about["key"] == key and about["weights_sha256"] == content_hash(directory / WEIGHTS)
    except (OSError, ValueError, KeyError):
        return False
