"""The embedded model organism: a small GPT-2, pretrained here, whose abilities are known.

It does the old task and not the new one, takes a minute or two on a CPU and needs no download.
That is checked before it is used (the gate), and a finished organism is cached under the hash of
what it was made from.
"""

import hashlib
import itertools
import json
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import behaviour, load_model, quiet
from circuitlapse.records import content_hash
from circuitlapse.shapes import Float, Int
from circuitlapse.tasks import get_task, tokenize
from circuitlapse.tasks.templates import CONTINUATIONS, OPENINGS
from circuitlapse.training.corpus import rows
from circuitlapse.training.recipe import Recipe, Stage
from circuitlapse.training.restricted import Held, free_masks
from circuitlapse.training.tokenizer import END_OF_TEXT, build_tokenizer

#: Called after every step with the steps done, the steps planned, and a short status.
Progress = Callable[[int, int, str], None]

_CACHE_VARIABLE = "CIRCUITLAPSE_CACHE"
_WEIGHTS = "model.safetensors"
_ABOUT = "organism.json"
# Context length; the longest prompt has 34 tokens.
_POSITIONS = 64
# A fixed number, whatever the machine has: another one gives other roundings and another organism.
_THREADS = 2
_LOOK_EVERY = 100


def organism(
    recipe: Recipe,
    seed: int,
    cache_dir: Path | str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return the directory of an organism, pretraining it if it is not in the cache.

    Args:
        recipe: What it is made from.
        seed: Seeds the initial weights and the text.
        cache_dir: Where organisms are kept. Default: the environment variable
            ``CIRCUITLAPSE_CACHE``, else the user's cache directory.
        progress: Called after every step.

    Returns:
        A directory that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load, with the recipe and
        the gate's figures in ``organism.json``.

    Raises:
        CircuitlapseError: If the gate does not hold after the last round.
    """
    home = cache_home(cache_dir) / "organisms"
    key = organism_key(recipe, seed)
    target = home / f"{recipe.name}-{seed}-{key[:16]}"
    if _is_whole(target, key):
        return target
    made = pretrain(recipe, seed, home, progress)
    if target.exists():
        if _is_whole(target, key):  # another process was faster
            shutil.rmtree(made)
            return target
        shutil.rmtree(target)
    made.rename(target)
    return target


def cache_home(cache_dir: Path | str | None = None) -> Path:
    """Where organisms are kept; see :func:`organism`."""
    default = os.environ.get(_CACHE_VARIABLE) or platformdirs.user_cache_dir("circuitlapse")
    return Path(cache_dir or default).expanduser()


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
    """Pretrain an organism until its gate holds, and save it.

    Args:
        recipe: What it is made from.
        seed: Seeds the initial weights and the text.
        into: Directory in which a new directory is made; default: the system's temporary one.
        progress: Called after every step.

    Returns:
        The new directory, complete.

    Raises:
        CircuitlapseError: If the gate does not hold after the last round.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        return _pretrain(recipe, seed, into, progress)
    finally:
        torch.set_num_threads(threads)


def _pretrain(
    recipe: Recipe, seed: int, into: Path | str | None, progress: Progress | None
) -> Path:
    started = time.monotonic()
    tokenizer = build_tokenizer()
    model = _blank(recipe, seed, tokenizer)
    model.set_attn_implementation("eager")  # a tenth faster than the fused kernel on short rows
    rng = random.Random(f"organism {recipe.sha256} {seed}")
    validation = tokenize(get_task("ioi2").items("validation", 256), tokenizer, "names")

    def old_accuracy() -> float:
        return behaviour(load_model(model), validation).correct.double().mean().item()

    stages, peak, done, old, new = recipe.stages, recipe.learning_rate, 0, 0.0, 0.0
    for _ in range(recipe.extra_rounds + 1):
        for loss, left in _steps(model, tokenizer, recipe, rng, stages, peak, old_accuracy):
            done += 1
            if progress is not None:
                progress(done, done + left, f"loss {loss:.2f}")
        stages = (Stage(steps=recipe.extra_steps, weights=recipe.stages[-1].weights),)
        peak = recipe.learning_rate * recipe.extra_rate
        old, new = gate_figures(model, tokenizer, recipe.gate_prompts)
        if old >= recipe.old_at_least and recipe.new_at_least <= new <= recipe.new_at_most:
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
    directory = Path(tempfile.mkdtemp(prefix=".making-", dir=into))
    _save(model, tokenizer, directory)
    about = {
        "key": organism_key(recipe, seed),
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": recipe.sha256,
        "seed": seed,
        "steps": done,
        "seconds": round(time.monotonic() - started, 1),
        "gate": {"prompts": recipe.gate_prompts, "ioi2": old, "ioi3_among": new},
        "weights_sha256": content_hash(directory / _WEIGHTS),
    }
    (directory / _ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    return directory


def gate_figures(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, n: int
) -> tuple[float, float]:
    """Measure what the gate looks at, on prompts with held-out name pairs.

    Args:
        model: The organism.
        tokenizer: Its tokenizer.
        n: Prompts per task.

    Returns:
        The old task's accuracy over the whole vocabulary and the new task's among the names.
    """
    loaded = load_model(model)
    old, new = (
        behaviour(loaded, tokenize(get_task(task).items("validation", n), tokenizer, "names"))
        for task in ("ioi2", "ioi3")
    )
    return old.correct.double().mean().item(), new.correct_among.double().mean().item()


def _blank(recipe: Recipe, seed: int, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    end = tokenizer.get_vocab()[END_OF_TEXT]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(tokenizer),
                n_positions=_POSITIONS,
                n_embd=recipe.d_model,
                n_layer=recipe.layers,
                n_head=recipe.heads,
                initializer_range=recipe.initializer_range,
                # GPT-2's GELU under the name whose kernel is fused: twice as fast on a CPU.
                activation_function="gelu_pytorch_tanh",
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=end,
                eos_token_id=end,
            )
        )


def _steps(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    rng: random.Random,
    stages: tuple[Stage, ...],
    peak: float,
    old_accuracy: Callable[[], float],
) -> Iterator[tuple[float, int]]:
    """Train for one round and yield, after every step, the loss and the steps that are left."""
    model.train()
    blank = _hold_blank(model, recipe)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=peak, betas=recipe.betas, weight_decay=recipe.weight_decay,
        fused=True,
    )  # fmt: skip
    done = 0
    for number, stage in enumerate(stages):
        last = number == len(stages) - 1
        after = sum(later.steps for later in stages[number + 1 :])
        for step in itertools.count():
            if step >= stage.steps and _is_over(stage, step, old_accuracy):
                break
            rate = peak * min(1.0, (done + 1) / recipe.warmup)
            if last:
                cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / stage.steps)))
                rate *= recipe.final_rate + (1 - recipe.final_rate) * cosine
            optimizer.param_groups[0]["lr"] = rate
            texts = rows(rng, stage.weights, recipe.batch)
            loss = _loss(model, *_encode(texts, tokenizer, recipe.repeated_weight))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            blank.restore()
            done += 1
            yield loss.item(), max(0, stage.steps - step - 1) + after
    blank.release()
    model.eval()


@torch.no_grad()
def _hold_blank(model: GPT2LMHeadModel, recipe: Recipe) -> Held:
    """Set the output matrices of the blank heads to zero, and keep them there."""
    if not recipe.blank_heads:
        return Held(model, {})
    free = free_masks(model, recipe.blank_heads, freeze=True)
    masks = {name: mask for name, mask in free.items() if name.endswith("attn.c_proj.weight")}
    for name, parameter in model.named_parameters():
        if name in masks:
            parameter[~masks[name]] = 0.0
    return Held(model, masks)


def _is_over(stage: Stage, step: int, old_accuracy: Callable[[], float]) -> bool:
    if stage.until is None or step >= stage.at_most:
        return True
    return (step - stage.steps) % _LOOK_EVERY == 0 and old_accuracy() >= stage.until


def _loss(
    model: GPT2LMHeadModel, ids: Int[Tensor, "rows pos"], counts: Float[Tensor, "rows pos"]
) -> Float[Tensor, ""]:
    logits = model(input_ids=ids, use_cache=False).logits
    each = cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return (each * counts[:, 1:]).sum() / counts[:, 1:].sum()


def _encode(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, repeated_weight: float
) -> tuple[Int[Tensor, "rows pos"], Float[Tensor, "rows pos"]]:
    """Return token ids and how much each counts in the loss; padding counts nothing.

    Rows end with the end-of-text token, which also pads them.
    """
    end = tokenizer.get_vocab()[END_OF_TEXT]
    encoded = [[*ids, end] for ids in tokenizer(texts)["input_ids"]]
    lengths = torch.tensor([len(row) for row in encoded])
    width = int(lengths.max())
    ids = torch.tensor([row + [end] * (width - len(row)) for row in encoded])
    real = torch.arange(width) < lengths[:, None]
    repeated = (ids[:, :, None] == ids[:, None, :]).tril(-1).any(dim=2)
    return ids, torch.where(repeated, repeated_weight, 1.0) * real


def _save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    with quiet():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _is_whole(directory: Path, key: str) -> bool:
    try:
        about = json.loads((directory / _ABOUT).read_text())
        return about["key"] == key and about["weights_sha256"] == content_hash(directory / _WEIGHTS)
    except (OSError, ValueError, KeyError):
        return False
