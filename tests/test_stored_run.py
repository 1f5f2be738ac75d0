"""The code of this tree gives the numbers of the stored run; differences are listed here.

When you drop, add or change a table, column, row or array on purpose, add an ``Intended`` with its
reason to ``INTENDED``. When the run is made anew (``python tests/make_stored_run.py``), the list
is empty again.

All holds to the last bit, and to 1e-6 where it is measured, on a machine that rounds as the one
that made the run (``stored_run.arithmetic``); elsewhere to 1e-9 and 1e-4.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import circuitlapse as cl
from circuitlapse.records.carriers import Carriers
from stored_run import Stored, read_arrays, read_table, rebuild

pytestmark = pytest.mark.usefixtures("unchecked")


@dataclass(frozen=True)
class Intended:
    """A difference that is meant.

    Attributes:
        where: Pattern of the name of the table or file (``tables/overlap.parquet``).
        why: The reason.
        parts: Columns, arrays or keys that are not compared; without any, and without
            rows, the whole table or file.
        rows: Columns and values that pick rows, in which ``parts``, or without any the
            rows themselves, are not compared. In the verdict they pick evidence.
    """

    where: str
    why: str
    parts: tuple[str, ...] = ()
    rows: dict[str, Any] = field(default_factory=dict)


INTENDED: list[Intended] = []

TRAINED = ("checkpoints/", "training/", "controls/seed-")
"""What only training makes, which differs between machines: it is always taken from the store."""
PROSE = {"statement", "reason", "detail", "scope", "name", "sentence"}
PROSE |= {"says_not", "was_it_there", "what_carries_it", "would_change"}
"""Keys of the verdict whose text may be worded anew: its figures are compared."""


def _differs(name: str) -> list[Intended]:
    return [each for each in INTENDED if re.fullmatch(each.where, name)]


def _dropped(name: str) -> bool:
    return any(not each.parts and not each.rows for each in _differs(name))


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Stored:
    return Stored(tmp_path_factory.mktemp("stored"))


def _names(stored: Stored, *begin: str) -> list[str]:
    """Names of stored files that are compared."""
    return [name for name in stored.files(*begin) if not _dropped(name)]


@pytest.fixture(scope="module")
def rebuilt(stored, tmp_path_factory) -> Path:
    """Tables and verdict from the stored arrays."""
    out = tmp_path_factory.mktemp("rebuilt")
    placed = (
        "checkpoints/",
        "training/",
        "controls/",
        "scores/",
        "readings/",
        "patterns/",
        "patching/",
        "tasks/",
        "base.json",
    )
    made = rebuild(stored, out, placed, ["tables/", "verdict"])
    assert all(name.startswith(("tables/", "verdict")) for name in made), made
    return out


def _table(name: str, path: Path) -> pl.DataFrame:
    """A table without what is meant to differ."""
    table = read_table(path)
    for each in _differs(name):
        picked = [pl.col(column) == value for column, value in each.rows.items()]
        if each.rows and each.parts:
            keep = ~pl.all_horizontal(picked)
            table = table.with_columns(
                pl.when(keep).then(pl.col(part)) for part in each.parts if part in table.columns
            )
        elif each.rows:
            table = table.filter(~pl.all_horizontal(picked))
        else:
            table = table.drop(each.parts, strict=False)
    return table


def _unequal(ours: pl.Series, theirs: pl.Series, exactly: bool) -> pl.Series:
    """Rows that differ; where a machine rounds otherwise, by more than rounding."""
    different = ours.ne_missing(theirs)
    if ours.dtype.is_float() and not exactly:
        different &= ~((ours - theirs).abs() <= 1e-9).fill_null(value=False)
    return different.arg_true()


def test_every_table_is_rebuilt_exactly_from_the_stored_arrays(stored, rebuilt):
    differing = []
    for name in _names(stored, "tables/"):
        ours, theirs = _table(name, stored.run / name), _table(name, rebuilt / name)
        if set(ours.columns) != set(theirs.columns):
            differing.append(f"{name}: columns {set(ours.columns) ^ set(theirs.columns)}")
        elif ours.height != theirs.height:
            differing.append(f"{name}: {ours.height} rows were stored, {theirs.height} are made")
        else:
            for column in ours.columns:
                unequal = _unequal(ours[column], theirs[column], stored.same)
                if len(unequal):
                    row = unequal[0]
                    pair = f"{ours[column][row]!r} was stored, {theirs[column][row]!r} is made"
                    differing.append(f"{name}: {column}, {len(unequal)} rows; row {row}: {pair}")
    assert not differing, "\n".join(differing)


def _without(document: Any, parts: set[str], rows: list[dict[str, Any]]) -> Any:
    if isinstance(document, dict):
        kept = {key: value for key, value in document.items() if key not in parts}
        return {
            key: _figures(value if isinstance(value, str) else " ".join(value))
            if key in PROSE
            else _without(value, parts, rows)
            for key, value in kept.items()
        }
    if isinstance(document, list):
        return [_without(each, parts, rows) for each in document if not _picked(each, rows)]
    return document


def _picked(evidence: Any, rows: list[dict[str, Any]]) -> bool:
    if not isinstance(evidence, dict):
        return False
    columns = {**evidence, **(evidence.get("where") or {})}
    return any(
        row.items() <= {k: v for k, v in columns.items() if k in row}.items() for row in rows
    )


def _figures(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", re.sub(r"\b[am]\d+(?:\.h\d+)?", "", text))


def test_the_verdict_is_rebuilt_exactly_from_the_stored_arrays(stored, rebuilt):
    for name in _names(stored, "verdict"):
        # How the rule was scored is no figure of the run.
        parts = {"calibration", *(part for each in _differs(name) for part in each.parts)}
        rows = [each.rows for each in _differs(name) if each.rows]
        ours = _without(json.loads((stored.run / name).read_text()), parts, rows)
        theirs = _without(json.loads((rebuilt / name).read_text()), parts, rows)
        assert _compare(ours, theirs, name, 0 if stored.same else 1e-9) == []


def _compare(ours: Any, theirs: Any, at: str, most: float) -> list[str]:
    """Where two documents or arrays differ by more than ``most`` of what is largest, or of 1."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = [f"{at}: names {set(ours) ^ set(theirs)}"] if set(ours) != set(theirs) else []
        return found + [
            line
            for name in sorted(set(ours) & set(theirs))
            for line in _compare(ours[name], theirs[name], f"{at} {name}", most)
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for i, pair in pairs for line in _compare(*pair, f"{at}[{i}]", most)]
    if isinstance(ours, np.ndarray | float) and isinstance(theirs, np.ndarray | float):
        a, b = np.asarray(ours), np.asarray(theirs)
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return [f"{at}: {a.dtype}{a.shape} was stored, {b.dtype}{b.shape} is measured"]
        a, b = a.astype(np.float64), b.astype(np.float64)
        size = max(1.0, np.abs(a).max(initial=0))
        difference = np.abs(a - b).max(initial=0) / size
        return [f"{at}: differs by {difference:.2g}"] if difference > most else []
    return [] if ours == theirs else [f"{at}: {ours!r} was stored, {theirs!r} is measured"]


def test_all_that_is_measured_anew_from_the_stored_weights_is_what_was_stored(stored, tmp_path):
    """Of one fine-tune and its placebo; the other's measuring would be no other code."""
    wanted = ("scores/", "readings/", "patterns/", "patching/", "controls/")
    compared = [name for name in _names(stored, *wanted) if "seed-1" not in name]
    rebuild(stored, tmp_path, (*TRAINED, "tasks/"), [f"{re.escape(n)}$" for n in compared])
    differing = []
    for name in compared:
        ours, about = read_arrays(stored.run / name)
        theirs, said = read_arrays(tmp_path / name)
        parts = {part for each in _differs(name) for part in each.parts}
        ours, theirs = {**ours, "": about}, {**theirs, "": said}
        differing += _compare(
            {n: a for n, a in ours.items() if n not in parts},
            {n: a for n, a in theirs.items() if n not in parts},
            name,
            1e-6 if stored.same else 1e-4,
        )
    assert not differing, "\n".join(differing)


def test_every_intended_difference_is_about_something_stored(stored):
    """A line that is no longer needed goes."""
    for each in INTENDED:
        assert any(re.fullmatch(each.where, name) for name in stored.files("")), each


def _others(task: str, split: str, n: int) -> list[str]:
    items = cl.get_task(task).items(split, n, 7)
    return [item.model_dump_json() for item in items]


def _rebuilt(stored: Stored, out: Path, wanted: str, changes: dict[str, slice]) -> None:
    """Make one artifact anew, with other prompts in some rows of some of the prompts' files."""

    def edit(name: str, path: Path) -> None:
        rows = changes.get(name)
        if rows is not None:
            lines = path.read_text().splitlines()
            task, split, _ = Path(name).name.split(".")
            lines[rows] = _others(task, split, len(lines))[rows]
            path.write_text("".join(f"{line}\n" for line in lines))

    rebuild(stored, out, (*TRAINED, "tasks/"), [f"{re.escape(wanted)}$"], edit)


def _measured(stored: Stored, out: Path, wanted: str, changes: dict[str, slice]) -> dict[str, Any]:
    """The arrays of one artifact that is made anew."""
    _rebuilt(stored, out, wanted, changes)
    arrays, about = read_arrays(out / wanted)
    return {**arrays, "": about}


def _same(ours: dict[str, Any], theirs: dict[str, Any], *begin: str) -> set[bool]:
    return {np.array_equal(ours[name], theirs[name]) for name in ours if name.startswith(begin)}


def test_circuits_are_ranked_and_scored_on_different_prompts(stored, tmp_path):
    wanted, prompts = "scores/seed-0/step-00060/ioi3.safetensors", "tasks/ioi3.test.jsonl"
    n = 16
    plain = _measured(stored, tmp_path / "plain", wanted, {})
    first = _measured(stored, tmp_path / "first", wanted, {prompts: slice(0, n)})
    second = _measured(stored, tmp_path / "second", wanted, {prompts: slice(n, 2 * n)})
    ranking = ("edges", "halves", "effects")
    whole = ("faithfulness_clean", "faithfulness_corrupt")
    assert _same(plain, second, *ranking) == {True}
    assert _same(plain, first, *ranking) == {False}
    assert _same(plain, first, *whole) == {True}
    assert _same(plain, second, *whole) == {False}


def test_heads_are_chosen_on_validation_prompts_and_measured_on_test_prompts(stored, tmp_path):
    def measured(out: str, changes: dict[str, slice]) -> Carriers:
        _rebuilt(stored, tmp_path / out, wanted, changes)
        return Carriers.of_json((tmp_path / out / wanted).read_text())

    wanted = "scores/seed-0/carriers.json"
    plain = measured("plain", {})
    test = {f"tasks/{task}.test.jsonl": slice(None) for task in ("ioi2", "ioi3")}
    validation = {f"tasks/{task}.validation.jsonl": slice(None) for task in ("ioi2", "ioi3")}
    on_others, chosen = measured("scored", test), measured("chosen", validation)
    assert plain.old.heads == on_others.old.heads
    assert plain.old.heads != chosen.old.heads
    # What does not depend on the choice changes with the test prompts alone.
    assert plain.improvement == chosen.improvement
    assert plain.improvement != on_others.improvement
