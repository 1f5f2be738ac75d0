from dataclasses import fields
from inspect import unwrap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.errors import CircuitlapseError
from circuitlapse.prompts.pairs import PromptPairs


def example() -> PromptPairs:
    clean = torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7], [8, 9, 0, 0]])
    corrupt = torch.tensor([[1, 2, 9, 0], [4, 8, 6, 1], [8, 9, 5, 5]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
    answers, distractors = torch.tensor([5, 6, 7]), torch.tensor([[1, 2], [3, 4], [5, 6]])
    where = {"END": torch.tensor([2, 3, 1])}
    return PromptPairs.from_tensors(clean, corrupt, answers, distractors, mask, where)


def test_first_difference_ignores_padding() -> None:
    assert example().first_difference().tolist() == [2, 1, 2]


def test_rows_can_be_taken_and_trimmed() -> None:
    pairs = example()[torch.tensor([2, 0])].trimmed()
    assert pairs.clean.tolist() == [[8, 9, 0], [1, 2, 3]]
    assert pairs.answers.tolist() == [7, 5]
    assert pairs.positions["END"].tolist() == [1, 2]
    assert len(pairs[:1]) == 1


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    seed=st.integers(0, 999),
)
def test_left_padding_is_undone(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, width = len(lengths), max(lengths)
    right = torch.randint(1, 50, (n, width), generator=generator)
    other = torch.randint(1, 50, (n, width), generator=generator)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    ends = torch.tensor(lengths) - 1

    def left(ids: torch.Tensor) -> torch.Tensor:
        return torch.stack([row.roll(width - k) for row, k in zip(ids, lengths, strict=True)])

    answers, distractors = torch.full((n,), 60), torch.full((n,), 61)
    plain = PromptPairs.from_tensors(right, other, answers, distractors, mask.int(), {"END": ends})
    shifted = PromptPairs.from_tensors(
        left(right),
        left(other),
        answers,
        distractors,
        left(mask.int()),
        {"END": torch.full((n,), width - 1)},
    )
    assert torch.equal(plain.lengths, shifted.lengths)
    assert torch.equal(plain.positions["END"], shifted.positions["END"])
    assert torch.equal(plain.clean[mask], shifted.clean[mask])
    assert torch.equal(plain.corrupt[mask], shifted.corrupt[mask])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": torch.rand(2, 3)}, "clean must be a tensor of integers with 2 dim"),
        ({"answers": torch.ones(2)}, "answers must be a tensor of integers"),
        ({"answers": torch.tensor([[5, 6], [-1, 7]])}, r"with -1 .*1: \[-1, 7\].*after"),
        ({"corrupt": torch.ones(2, 4, dtype=torch.long)}, "the same shape .*equally many tokens"),
        ({"answers": torch.ones(3, dtype=torch.long)}, "one row .*3 rows for 2 .*clean has"),
        ({"distractors": torch.tensor([[1], [7]])}, r"among its own distractors \(got 'row 1'\)"),
        ({"attention_mask": torch.ones(2, 2, dtype=torch.long)}, "have the shape .*0 where .*pad"),
        ({"attention_mask": torch.tensor([[1, 0, 1], [1, 1, 1]])}, "unbroken .*row 0.*one side"),
        ({"attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, "one unbroken run .*row 1"),
        ({"positions": {"IO": torch.tensor([0, 3])}}, "'IO' lies outside .*row 1: 3.*from 0"),
        ({"positions": {"IO": torch.tensor([0])}}, "position 'IO' must have one row .*1 rows for"),
        ({"also": torch.tensor([8, 9])}, r"also must be .* with 2 dim.*of shape \(2,\)"),
        ({"also": torch.tensor([[8, 9]])}, "also must have one row per prompt"),
        ({"also": torch.tensor([[-1, 8], [9, 7]])}, r"twice, .*\(got 'row 1'\)\. Give in also"),
        ({"also": torch.tensor([[8, 8], [9, -1]])}, r"given twice, .*\(got 'row 0'\)"),
        (
            {"answers": torch.tensor([[5, -1], [7, 4]]), "also": torch.tensor([[8], [-1]])},
            r"all must be one token \(got 'row 1'",
        ),
        ({"distractor_continuations": torch.ones(2, 2, dtype=torch.long)}, "with 3 dim"),
        (
            {"distractor_continuations": torch.ones(2, 2, 1, dtype=torch.long)},
            r"for each distractor \(got .*\(2, 2, 1\) for .*\(2, 1\)",
        ),
    ],
)
def test_wrong_tensors_are_errors(change: dict, message: str) -> None:
    good: dict[str, Any] = {
        "clean": torch.ones(2, 3, dtype=torch.long),
        "corrupt": torch.ones(2, 3, dtype=torch.long),
        "answers": torch.tensor([5, 7]),
        "distractors": torch.tensor([1, 2]),
    }
    PromptPairs.from_tensors(**good)
    with pytest.raises(CircuitlapseError, match=message):
        PromptPairs.from_tensors(**{**good, **change})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_ids_of_any_whole_numbers_are_indices(dtype: torch.dtype) -> None:
    ids = torch.arange(6).view(2, 3)
    given = {
        "clean": ids,
        "corrupt": ids + 6,
        "answers": ids[:, 0],
        "distractors": ids[:, 1:],
        "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
        "also": ids[:, :1] + 12,
        "distractor_continuations": ids[:, 1:, None],
    }
    where = torch.tensor([1, 0])
    pairs = PromptPairs.from_tensors(**given, positions={"first": where})
    small = PromptPairs.from_tensors(
        **{name: tensor.to(dtype) for name, tensor in given.items()},
        positions={"first": where.to(dtype)},
    )
    for field in fields(pairs):
        ours, theirs = getattr(small, field.name), getattr(pairs, field.name)
        if field.name == "positions":
            ours, theirs = ours["first"], theirs["first"]
        assert ours.dtype == torch.long
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "wrong", "found"),
    [
        *(
            (name, [[1, 2, 3], [4, 5, 6]], "list")
            for name in (
                "clean",
                "corrupt",
                "answers",
                "distractors",
                "also",
                "attention_mask",
                "distractor_continuations",
            )
        ),
        *((name, None, "NoneType") for name in ("clean", "corrupt", "answers")),
        ("positions", {"END": [2, 2]}, "list"),
    ],
)
def test_a_value_that_is_no_tensor_is_an_error_with_its_fix(
    name: str, wrong: Any, found: str
) -> None:
    ids = torch.arange(6).view(2, 3)
    checked: Any = PromptPairs.from_tensors
    unchecked = unwrap(checked.__func__)
    good = {"clean": ids, "corrupt": ids + 6, "answers": ids[:, 0]}
    name_said = name.removesuffix("s") if name == "positions" else name
    with pytest.raises(
        CircuitlapseError,
        match=rf"{name_said}.* must be a tensor of token ids \(got '{found}'\).*as_tensor",
    ):
        unchecked(PromptPairs, **{**good, name: wrong})


def test_positions_are_named() -> None:
    ids = torch.arange(6).view(2, 3)
    checked: Any = PromptPairs.from_tensors
    with pytest.raises(CircuitlapseError, match=r"map names to tensors .*got 'Tensor'.*END"):
        unwrap(checked.__func__)(PromptPairs, ids, ids, ids[:, 0], positions=ids[:, 0])


def test_no_prompts_are_an_error() -> None:
    empty = torch.ones(0, 3, dtype=torch.long)
    with pytest.raises(CircuitlapseError, match="there are no prompts"):
        PromptPairs.from_tensors(empty, empty, empty[:, 0], empty[:, 0])
