"""One prompt with its answer, as it is written to ``tasks/*.jsonl``."""

from pydantic import BaseModel, ConfigDict


class Item(BaseModel):
    """A clean prompt, its answer, and the prompts that differ from it in one causal variable.

    Attributes:
        prompt: The clean prompt; the answer comes right after it.
        answer: The right continuation, with the space before it (``" Mary"``).
        also: Other right continuations, where there are several (a larger year); none for most.
        distractors: The wrong candidates that the metric compares with, spelt like ``answer``.
        names: Everyone named, those of the list first and in its order, without spaces.
        template: Opening and continuation, such as ``o03.c11``.
        split: The split that it was drawn for.
        spans: Start and end of named words in ``prompt``, in characters (``IO``, ``S1`` …).
        corrupt: Prompt by name of the corruption or control.
        corrupt_answers: The right continuation of each of those prompts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    answer: str
    also: tuple[str, ...] = ()
    distractors: tuple[str, ...]
    names: tuple[str, ...]
    template: str
    split: str
    spans: dict[str, tuple[int, int]]
    corrupt: dict[str, str]
    corrupt_answers: dict[str, str]
