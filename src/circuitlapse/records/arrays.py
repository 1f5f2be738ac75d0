"""Arrays on disk: safetensors files with one JSON document about them.

They are the border between torch and numpy. What needs a model writes arrays; what makes tables
reads them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save_file

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.store import metadata

Arrays = dict[str, np.ndarray]


def family_mean(arrays: Arrays, name: str, variants: Sequence[str]) -> np.ndarray:
    """Average an array such as ``effects`` over the variants of a counterfactual type."""
    return np.stack([arrays[f"{name}.{v}"] for v in variants]).mean(axis=0, dtype=np.float64)


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


def load_arrays(content: bytes) -> Arrays:
    """Read the arrays of a safetensors file."""
    return load(content)


def load_about(content: bytes) -> dict[str, Any]:
    """Read what ``save_arrays`` was told about the arrays."""
    return json.loads(metadata(content)["about"])
