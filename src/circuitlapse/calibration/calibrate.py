"""Score the rule on models with known ground truth: make, check, judge and count them.

Every candidate's record is an artifact of its own, so a stopped calibration resumes. Candidates of
the record that ships are taken from there, unless settings, marks or seeds are others: nothing is
scored twice.
"""

from collections.abc import Sequence
from pathlib import Path

from circuitlapse import __version__
from circuitlapse.calibration.candidate import Workplace
from circuitlapse.calibration.judge import answers
from circuitlapse.calibration.scored_rows import BASES, EDITION, ROWS, Candidate, candidates, marks
from circuitlapse.calibration.settings import Settings
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.job import Listener, Progress
from circuitlapse.pipeline.plan.source import code_behind
from circuitlapse.records.calibration import Calibration, PlannedRow, ScoredCandidate, released
from circuitlapse.records.store import Store, cache_home, key_of

DOCUMENT = "calibration.json"
NUMBERS = tuple(dict.fromkeys(row.number for row in ROWS))


def calibrate(
    out: Path | str,
    *,
    rows: Sequence[int] = (),
    again: bool = False,
    cache_dir: Path | str | None = None,
    settings: Settings | None = None,
    wanted: Sequence[Candidate] | None = None,
    progress: Listener | None = None,
) -> Calibration:
    """Judge models with known ground truth, and count how often the label is right.

    Args:
        out: Directory of the calibration; an unfinished one is resumed.
        rows: Rows of the table to score; default all.
        again: Whether to make candidates again that the record of this package has.
        cache_dir: Where bases are kept; see :func:`circuitlapse.organisms.organism`.
        settings: How candidates are trained and measured.
        wanted: The candidates, instead of those of the rows.
        progress: Called with events; nothing is printed.

    Returns:
        The document that ``calibration.json`` holds. It is written after every candidate.

    Raises:
        CircuitlapseError: If there is no such row, or ``out`` is a file or used by another process.
    """
    if unknown := sorted(set(rows) - set(NUMBERS)):
        raise CircuitlapseError(
            "the calibration has no such row",
            got=unknown[0],
            fix=f"Use rows from {NUMBERS[0]} to {NUMBERS[-1]}",
        )
    root = Path(out)
    if root.exists() and not root.is_dir():
        raise CircuitlapseError(f"{root} is not a directory", fix="Name a new one with --out")
    root.mkdir(parents=True, exist_ok=True)
    store, listen = Store(root), progress or (lambda event: None)
    place = Workplace(store, cache_home(cache_dir), settings or Settings())
    scored = {} if again else {each.key: each for each in released().candidates}
    todo = candidates(tuple(rows)) if wanted is None else list(wanted)
    with store.locked():
        store.sweep()
        listen(Progress("planned", total=len(todo)))
        found: list[ScoredCandidate] = []
        document = document_of(found, place.settings)
        for candidate in todo:
            listen(Progress("started", candidate.name))
            each = scored.get(place.key_of(candidate)) or place.read(candidate)
            found.append(answers(each, candidate.row) if each else place.work_on(candidate))
            listen(Progress("finished", candidate.name, len(found), len(todo)))
            if found[-1].refused:
                text = f"{candidate.name}: refused, {found[-1].refused}"
                listen(Progress("note", text=text))
            document = document_of(found, place.settings)
            _write(store, document)
    return document


def document_of(found: Sequence[ScoredCandidate], settings: Settings) -> Calibration:
    """Return the document of some finished candidates.

    Marks and the rule's hash are those that were frozen with this edition, so that a changed mark
    is not taken for the one that was scored.
    """
    order, frozen = [row.mechanism for row in ROWS], released()
    if frozen.edition != EDITION or not frozen.marks:
        frozen = None
    return Calibration(
        edition=EDITION,
        circuitlapse=__version__,
        rule=frozen.rule if frozen else code_behind("circuitlapse.verdict.label"),
        settings=settings.model_dump(),
        marks=frozen.marks if frozen else marks(),
        rows=tuple(
            PlannedRow(
                number=row.number,
                mechanism=row.mechanism,
                says=row.says,
                truth=row.truth,
                carrier=row.carrier,
                held_out=row.held_out,
                n=len(row.bases),
            )
            for row in ROWS
        ),
        bases={base.name: base.seeds for base in BASES},
        candidates=tuple(sorted(found, key=lambda each: (order.index(each.mechanism), each.seed))),
    )


def _write(store: Store, document: Calibration) -> None:
    text = document.model_dump_json(indent=1) + "\n"
    with store.write(DOCUMENT, key_of(text)) as draft:
        draft.write_text(text, encoding="utf-8")
