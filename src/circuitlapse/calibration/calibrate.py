"""Score the verdict on organisms with known ground truth: make, validate, judge and count them.

For each kind, seeds are tried in turn until enough organisms are validated, or twice as many have
been tried; rejected ones stay in the record. ``nothing`` takes the placebos in turn. Every
organism's answer is an artifact of its own, so that a stopped calibration can resume.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loky import cpu_count
from loky.process_executor import TerminatedWorkerError

from circuitlapse import __version__
from circuitlapse.calibration.candidate_jobs import Candidate, Setup, read_candidate, work_on
from circuitlapse.calibration.ground_truth import ALL_WEIGHTS, organism_recipe
from circuitlapse.calibration.judge import Judging
from circuitlapse.calibration.organism_checks import KINDS
from circuitlapse.calibration.tally import confusion, tallies
from circuitlapse.errors import CircuitlapseError
from circuitlapse.organisms.organism_cache import GroundTruthConfig
from circuitlapse.organisms.recipe import Recipe
from circuitlapse.pipeline.job import Listener, Progress
from circuitlapse.pipeline.run.execute import worker_killed, worker_pool
from circuitlapse.records.calibration import CalibratedOrganism, Calibration, calibration_table
from circuitlapse.records.store import Store, key_of
from circuitlapse.training.placebos import PLACEBOS
from circuitlapse.verdict.verdict import MARKS

DOCUMENT, TABLE = "calibration.json", "calibration.parquet"
N, SEED_FROM = 10, 100
_MOST_WORKERS = 8


def calibrate(
    out: Path | str,
    n: int = N,
    *,
    seed_from: int = SEED_FROM,
    stress: bool = False,
    workers: int = 0,
    recipes: Mapping[str, Recipe] | None = None,
    ground_truth: GroundTruthConfig | None = None,
    judging: Judging | None = None,
    cache_dir: Path | str | None = None,
    progress: Listener | None = None,
) -> Calibration:
    """Judge organisms with known ground truth, and count how often the label is correct.

    Args:
        out: Directory of the calibration; an unfinished one is resumed.
        n: Number of validated organisms of each kind.
        seed_from: First seed. The recipe and the rule were developed on seeds below 10.
        stress: Whether to judge ``n`` organisms whose ability was suppressed with all weights, too.
            They are not scored.
        workers: Number of worker processes; 0 takes one per core.
        recipes: Recipes of the bases, by kind; default
            :func:`circuitlapse.calibration.ground_truth.organism_recipe`.
        ground_truth: How organisms are trained and measured.
        judging: On how many prompts organisms are judged.
        cache_dir: Where models are kept; see :func:`circuitlapse.organisms.organism`.
        progress: Called with events; nothing is printed.

    Returns:
        The document that ``calibration.json`` holds.

    Raises:
        CircuitlapseError: If ``n`` is not positive, ``out`` is a file or used by another process,
            or a worker was killed.
    """
    if n < 1:
        raise CircuitlapseError(
            "a calibration needs at least one organism of each kind", got=n, fix="Pass n=1 or more"
        )
    started, listen = time.monotonic(), progress or (lambda event: None)
    setup = Setup(
        {kind: (recipes or {}).get(kind) or organism_recipe(kind) for kind in KINDS},
        ground_truth or GroundTruthConfig(),
        judging or Judging(),
        None if cache_dir is None else str(cache_dir),
    )
    root = Path(out)
    if root.exists() and not root.is_dir():
        raise CircuitlapseError(f"{root} is not a directory", fix="Name a new one with --out")
    root.mkdir(parents=True, exist_ok=True)
    store = Store(root)
    with store.locked():
        store.sweep()
        listen(Progress("planned", total=len(KINDS) * n + n * stress))
        found = _Search(store, setup, n, seed_from, workers, listen).run(stress)
        document = Calibration(
            circuitlapse=__version__,
            command=f"circuitlapse calibrate --n {n} --seed-from {seed_from}"
            + " --stress" * stress,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 1),
            n=n,
            seed_from=seed_from,
            settings={
                "ground_truth": setup.ground_truth.model_dump(),
                "judging": setup.judging.model_dump(),
                "recipes": {kind: recipe.sha256 for kind, recipe in setup.recipes.items()},
            },
            thresholds=MARKS,
            organisms=found,
            confusion=confusion(found),
            tallies=tallies(found),
            missing=_missing(found, n),
        )
        _write(store, document)
    return document


def _write(store: Store, document: Calibration) -> None:
    text = document.model_dump_json(indent=2) + "\n"
    with store.write(DOCUMENT, key_of(text)) as draft:
        draft.write_text(text, encoding="utf-8")
    with store.write(TABLE, key_of(text)) as draft:
        calibration_table(document).write_parquet(draft)


def _missing(found: Iterable[CalibratedOrganism], n: int) -> dict[str, int]:
    """How many organisms of each kind are still missing; complete kinds are left out."""
    scored = [each.kind for each in found if each.scored]
    return {kind: n - scored.count(kind) for kind in KINDS if scored.count(kind) < n}


class _Search:
    """Makes and judges candidates, in rounds, until enough are validated."""

    def __init__(
        self, store: Store, setup: Setup, n: int, seed_from: int, workers: int, listen: Listener
    ) -> None:
        self.store, self.setup, self.n, self.seed_from = store, setup, n, seed_from
        self.workers, self.listen = workers or min(cpu_count(), _MOST_WORKERS), listen
        self.found: dict[Candidate, CalibratedOrganism] = {}

    def run(self, stress: bool) -> list[CalibratedOrganism]:
        """Return all candidates, by kind and seed."""
        first = range(self.seed_from, self.seed_from + self.n * stress)
        wanted = [Candidate("elicited", seed, ALL_WEIGHTS) for seed in first]
        tried = dict.fromkeys(KINDS, 0)
        while True:
            for kind, lacking in _missing(self.found.values(), self.n).items():
                for index in range(tried[kind], min(2 * self.n, tried[kind] + lacking)):
                    variant = PLACEBOS[index % len(PLACEBOS)] if kind == "nothing" else ""
                    wanted.append(Candidate(kind, self.seed_from + index, variant))
                    tried[kind] += 1
            if not wanted:
                break
            self._round(wanted)
            wanted = []
        order = sorted(
            self.found, key=lambda each: (KINDS.index(each.kind), each.variant, each.seed)
        )
        return [self.found[each] for each in order]

    def _keep(self, candidates: Sequence[Candidate], found: Sequence[CalibratedOrganism]) -> None:
        for candidate, each in zip(candidates, found, strict=True):
            self.found[candidate] = each
            # Replacements of rejected candidates are still to come.
            total = len(self.found) + sum(_missing(self.found.values(), self.n).values())
            self.listen(Progress("finished", candidate.name, len(self.found), total))
            if each.why_rejected:
                text = f"{candidate.name}: rejected, {each.why_rejected}"
                self.listen(Progress("note", text=text))

    def _round(self, wanted: Sequence[Candidate]) -> None:
        """Take finished candidates from the store; make the rest in parallel, one base per job."""
        groups: dict[str, list[Candidate]] = {}
        for each in wanted:
            self.listen(Progress("started", each.name))
            kept = read_candidate(self.store, self.setup, each)
            if kept is not None:
                self._keep([each], [kept])
            else:
                groups.setdefault(self.setup.base_of(each), []).append(each)
        root, jobs = self.store.root, list(groups.values())
        if min(self.workers, len(jobs)) <= 1:
            for members in jobs:
                self._keep(members, work_on(root, self.setup, members))
            return
        with worker_pool(min(self.workers, len(jobs))) as pool:
            running: dict[Any, list[Candidate]] = {
                pool.submit(work_on, root, self.setup, each): each for each in jobs
            }
            try:
                for future in as_completed(running):
                    self._keep(running[future], future.result())
            except BaseException as error:
                pool.shutdown(wait=False, kill_workers=True)
                if isinstance(error, TerminatedWorkerError):
                    raise worker_killed() from error
                raise
