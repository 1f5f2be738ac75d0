"""What every section of an experiment shares."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def distinct(name: str, values: tuple[object, ...]) -> None:
    """Refuse a list that names a value twice."""
    if len(set(values)) != len(values):
        raise ValueError(f"`{name}` names a value twice: {list(values)}")
