"""What is measured of one task at one checkpoint: behaviour, controls, and circuits.

Everything is kept per prompt, so that any interval can be computed afterwards without the model.
Names of the arrays in ``scores/…safetensors`` (``v`` a corruption, ``f`` a family of them):

- ``behaviour.<split>.logit_diff|correct|correct_among``: ``[prompts]``
- ``controls.<control>``: metric on the clean prompt minus metric on the changed one, ``[prompts]``
- ``clean.v``, ``corrupt.v``: metric of the whole model on either prompt, ``[prompts]``
- ``effects.v``: exact patching effect of every head and MLP, ``[prompts, nodes]``
- ``edges.v``: mean attribution, ``[writers, readers]``; ``halves.v``: of even and odd prompts
- ``faithfulness.f``: metric of growing circuits, averaged over the family's variants,
  ``[fractions, prompts]``; ``n_edges.f``: their sizes, ``[fractions]``
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerBase

from circuitlapse.attribution import attribute, node_effects
from circuitlapse.circuits import faithfulness_curve
from circuitlapse.config import Measure
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import Model, behaviour, logit_differences
from circuitlapse.tasks import Item, Task, tokenize

Arrays = dict[str, np.ndarray]


def read_items(path: Path) -> list[Item]:
    """Read a task's items from JSON lines."""
    with path.open(encoding="utf-8") as lines:
        return [Item.model_validate_json(line) for line in lines]


def write_items(items: Sequence[Item], path: Path) -> None:
    """Write a task's items as JSON lines."""
    path.write_text("".join(item.model_dump_json() + "\n" for item in items), encoding="utf-8")


def measure(
    model: Model,
    task: Task,
    held_out: Mapping[str, Sequence[Item]],
    settings: Measure,
    *,
    circuits: bool,
    advance: Callable[[int, int], None],
) -> Arrays:
    """Measure one task on one model.

    Args:
        model: The checkpoint.
        task: The task that the items are of.
        held_out: Items of the splits ``test`` and ``test_templates``.
        settings: What to measure, on how many prompts.
        circuits: Whether to find circuits too; behaviour alone is much faster.
        advance: Called with how many parts are done, of how many.

    Returns:
        Arrays by name, as the module's docstring lists them.
    """
    tokenizer = _tokenizer(model)
    arrays: Arrays = {}
    for split, items in held_out.items():
        # Any corruption does: behaviour looks at the clean prompts only.
        shown = behaviour(model, tokenize(items, tokenizer, task.corruptions[0]))
        for quantity in ("logit_diff", "correct", "correct_among"):
            values = getattr(shown, quantity).cpu().numpy()
            arrays[f"behaviour.{split}.{quantity}"] = values
    if not circuits:
        return arrays
    items = held_out["test"][: settings.circuit_prompts]
    for control in task.controls:
        clean, corrupt = logit_differences(model, tokenize(items, tokenizer, control))
        arrays[f"controls.{control}"] = (clean - corrupt).cpu().numpy()
    families = {family: task.families[family] for family in settings.corruptions}
    for done, (family, variants) in enumerate(families.items()):
        advance(done, len(families))
        _circuit_of(model, items, family, variants, settings, arrays)
    return arrays


def _circuit_of(
    model: Model,
    items: Sequence[Item],
    family: str,
    variants: Sequence[str],
    settings: Measure,
    arrays: Arrays,
) -> None:
    """Add one corruption family's scores, effects and faithfulness curve to the arrays."""
    tokenizer = _tokenizer(model)
    pairs = {variant: tokenize(items, tokenizer, variant) for variant in variants}
    found = []
    for variant in variants:
        scores = attribute(model, pairs[variant], settings.method, settings.ig_steps)
        clean, corrupt = logit_differences(model, pairs[variant])
        found.append(scores)
        arrays[f"edges.{variant}"] = scores.mean.cpu().numpy()
        arrays[f"halves.{variant}"] = scores.halves.cpu().numpy()
        arrays[f"effects.{variant}"] = node_effects(model, pairs[variant]).cpu().numpy()
        arrays[f"clean.{variant}"] = clean.cpu().numpy()
        arrays[f"corrupt.{variant}"] = corrupt.cpu().numpy()
    family_scores = replace(
        found[0],
        mean=sum(scores.mean for scores in found) / len(found),
        halves=sum(scores.halves for scores in found) / len(found),
    )
    curves = [
        faithfulness_curve(model, family_scores, pairs[variant], settings.fractions)
        for variant in variants
    ]
    metric = sum(np.stack([point.metric.cpu().numpy() for point in curve]) for curve in curves)
    arrays[f"faithfulness.{family}"] = metric / len(variants)
    arrays[f"n_edges.{family}"] = np.array([point.n_edges for point in curves[0]])


def _tokenizer(model: Model) -> PreTrainedTokenizerBase:
    if model.tokenizer is None:
        raise CircuitlapseError(
            "the model has no tokenizer, so no prompt can be written for it",
            fix="Save its tokenizer beside it with tokenizer.save_pretrained",
        )
    return model.tokenizer


def family_mean(arrays: Arrays, name: str, variants: Sequence[str]) -> np.ndarray:
    """Average an array such as ``effects`` over the variants of a corruption family."""
    return np.mean([arrays[f"{name}.{variant}"] for variant in variants], axis=0, dtype=np.float64)


def save_arrays(arrays: Arrays, path: Path, about: Mapping[str, Any]) -> None:
    """Write arrays to a safetensors file together with what is to be known about them.

    Args:
        arrays: By name.
        path: Where to.
        about: JSON-like. It goes under one metadata key, since safetensors writes several in an
            order that differs between processes, and equal results must be equal files.

    Raises:
        CircuitlapseError: If a value is NaN or infinite, naming the array.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CircuitlapseError(
                f"{name} holds a value that is not a finite number",
                fix="The checkpoint may have diverged: look at its weights and learning rate",
            )
    contiguous = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    save_file(contiguous, path, metadata={"about": json.dumps(about, sort_keys=True)})


def load_arrays(path: Path) -> Arrays:
    """Read the arrays of a safetensors file."""
    return load_file(path)


def load_about(path: Path) -> dict[str, Any]:
    """Read what ``save_arrays`` was told about the arrays."""
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["about"])
