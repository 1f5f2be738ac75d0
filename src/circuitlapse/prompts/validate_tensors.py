"""Validation of tensors that a caller made."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.shapes import Bool, Int

_DIMENSIONS = {
    "clean": (2,),
    "corrupt": (2,),
    "answers": (1, 2),
    "distractors": (1, 2),
    "also": (2,),
    "distractor_continuations": (3,),
}


def check_ids(given: Mapping[str, Any], positions: Any) -> None:
    """Raise an error unless all are tensors of integers with the right number of dimensions."""
    if positions is not None and not isinstance(positions, Mapping):
        raise CircuitlapseError(
            "positions must map names to tensors of token indices",
            got=type(positions).__name__,
            fix="For example positions={'END': lengths - 1}",
        )
    named = {named_as(name): where for name, where in (positions or {}).items()}
    for name, ids in {**given, **named}.items():
        check_is_tensor(name, ids)
        dimensions = _DIMENSIONS.get(name, (1,))
        wrong_type = ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool
        if ids.ndim not in dimensions or wrong_type:
            raise CircuitlapseError(
                f"{name} must be a tensor of integers with {' or '.join(map(str, dimensions))} "
                "dimension(s)",
                got=f"{ids.dtype} of shape {tuple(ids.shape)}",
                fix="Pass token ids, not text or logits",
            )


def check_is_tensor(name: str, given: Any) -> None:
    """Raise an error unless a value is a tensor."""
    if not isinstance(given, Tensor):
        raise CircuitlapseError(
            f"{name} must be a tensor of token ids",
            got=type(given).__name__,
            fix="Convert a list or an array with torch.as_tensor",
        )


def check_rows(n: int, given: Mapping[str, Tensor]) -> None:
    """Raise an error unless tensors have one row per prompt."""
    for name, ids in given.items():
        if len(ids) != n:
            raise CircuitlapseError(
                f"{name} must have one row per prompt",
                got=f"{len(ids)} rows for {n} prompts",
                fix="Give as many rows as clean has, in the same order",
            )


def named_as(position: str) -> str:
    """Return the name of a named position in messages."""
    return f"position {position!r}"


def first_tokens(answers: Int[Tensor, "prompts tokens"]) -> Int[Tensor, " prompts"]:
    """Return the answers' first tokens; raise an error unless −1 only pads shorter answers."""
    real = answers >= 0
    gap = (~real[:, :-1] & real[:, 1:]).any(dim=1)
    wrong = gap | ~real[:, 0] if answers.shape[1] else torch.ones_like(gap)
    what = "an answer must be one or more token ids, filled up with -1 on the right only"
    _check_no_row(wrong, what, "Put -1 only after the last token of the shorter answers", answers)
    return answers[:, 0]


def check_answers(
    answers: Int[Tensor, " prompts"],
    more: Int[Tensor, "prompts more"],
    also: Int[Tensor, "prompts also"],
    distractors: Int[Tensor, "prompts distractors"],
    further: Int[Tensor, "_ _ further"],
) -> None:
    """Raise an error if an answer is given twice or is its own distractor.

    Also if one of several right answers has several tokens, or the distractors' ``further`` tokens
    do not belong to as many distractors.
    """
    if further.shape[:2] != distractors.shape:
        raise CircuitlapseError(
            "distractor_continuations must have a row of tokens for each distractor",
            got=f"shape {tuple(further.shape)} for distractors of shape {tuple(distractors.shape)}",
            fix="Fill up with -1, also where a distractor is one token",
        )
    several = (more >= 0).any(dim=1) & (also >= 0).any()
    what = "where several answers are right, all must be one token"
    _check_no_row(several, what, "Leave also out, or give answers of one token")
    right = torch.cat([answers[:, None], also], dim=1)
    same = (right[:, :, None] == right[:, None]) & (right >= 0)[:, None]
    twice = same.triu(diagonal=1).flatten(1).any(dim=1)
    what = "a right answer is given twice, and would count twice"
    _check_no_row(twice, what, "Give in also only further right answers")
    # Longer answers may well begin as their distractors do.
    clash = (distractors[:, :, None] == right[:, None]).any(dim=2)
    clash &= (distractors >= 0) & ((further >= 0).sum(dim=2) == 0)
    clash &= (more < 0).all(dim=1, keepdim=True)
    fix = "Give each prompt one answer and other tokens as distractors"
    _check_no_row(clash.any(dim=1), "an answer is among its own distractors", fix)


def real_tokens(
    mask: Int[Tensor, "rows columns"], clean: Int[Tensor, "prompts pos"]
) -> tuple[Int[Tensor, " prompts"], Int[Tensor, " prompts"]]:
    """Return the start and length of each prompt's real tokens.

    Raises:
        CircuitlapseError: If the mask has another shape, or is not one run of ones in each row.
    """
    if mask.shape != clean.shape:
        raise CircuitlapseError(
            "attention_mask must have the shape of clean",
            got=f"{tuple(mask.shape)} for {tuple(clean.shape)}",
            fix="Give one number for each token: 1 where it is real, 0 where it is padding",
        )
    lengths, start = mask.sum(dim=1), mask.argmax(dim=1)
    index = torch.arange(mask.shape[1], device=mask.device)
    expected = (index >= start[:, None]) & (index < (start + lengths)[:, None])
    wrong = ((mask != expected) | (lengths == 0)[:, None]).any(dim=1)
    what = "attention_mask must be one unbroken run of ones in each row"
    _check_no_row(wrong, what, "Pad on one side only, and leave no row without a real token", mask)
    return start, lengths


def shifted_position(
    name: str,
    where: Int[Tensor, " prompts"],
    start: Int[Tensor, " prompts"],
    lengths: Int[Tensor, " prompts"],
) -> Int[Tensor, " prompts"]:
    """Count a named position from each prompt's first real token.

    Raises:
        CircuitlapseError: If it is not inside its prompt.
    """
    shifted = where - start
    outside = (shifted < 0) | (shifted >= lengths)
    fix = "Count from 0 in clean as given, its padding included"
    _check_no_row(outside, f"position {name!r} lies outside its prompt", fix, where)
    return shifted


def _check_no_row(
    wrong: Bool[Tensor, " prompts"], what: str, fix: str, values: Tensor | None = None
) -> None:
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        shown = "" if values is None else f": {values[row].tolist()}"
        raise CircuitlapseError(what, got=f"row {row}{shown}", fix=fix)
