"""Base class of an experiment's sections, and the names of a model's parts."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """A frozen group of settings that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def distinct(name: str, values: tuple[object, ...]) -> None:
    """Raise ValueError for a list with duplicates."""
    if len(set(values)) != len(values):
        raise ValueError(f"`{name}` has duplicates: {list(values)}")


OLD_CIRCUIT = "old_circuit"

_PART = re.compile(r"a\d+\.h\d+|m\d+|embeddings|norms|biases")


def are_parts(value: Any) -> bool:
    """Whether a value is a list of heads, MLPs, embeddings, norms and biases."""
    return (
        bool(value)
        and isinstance(value, list | tuple)
        and all(isinstance(part, str) and _PART.fullmatch(part) for part in value)
    )


def _one_set(value: Any, check: Callable[[Any], Any]) -> Any:
    try:
        found: Any = check(value)
    except ValidationError:
        found = None
    if isinstance(found, str) or found == ():
        return found
    if are_parts(found) and len(set(found)) == len(found):
        return found
    raise ValueError(
        "must be old_circuit, mlps, biases, or a list of different heads such as a1.h3, MLPs such "
        "as m1, embeddings, norms and biases"
    )


OneSet = Annotated[
    Literal["old_circuit", "mlps", "biases"] | tuple[str, ...], WrapValidator(_one_set)
]
"""The parts that one fine-tune trains: a named set, or a list of parts; all if it is empty."""
