"""One candidate of a calibration, from its base to a kept answer."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.numpy import save_file

from circuitlapse.calibration.judge import Judging, judge
from circuitlapse.calibration.planted import ALL_WEIGHTS, plant
from circuitlapse.calibration.tally import outcome_of
from circuitlapse.errors import CircuitlapseError
from circuitlapse.organisms.organism import organism, organism_key
from circuitlapse.organisms.organism_cache import GroundTruthConfig
from circuitlapse.organisms.recipe import Recipe
from circuitlapse.pipeline.plan.source import code_behind
from circuitlapse.records.calibration import CalibratedOrganism
from circuitlapse.records.store import Store, key_of
from circuitlapse.verdict.verdict import THRESHOLDS


@dataclass(frozen=True)
class Candidate:
    """What is to be planted; see :func:`circuitlapse.calibration.planted.plant`."""

    kind: str
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        """What the user sees, and the artifact's name."""
        return "-".join(filter(None, (self.kind, self.variant, str(self.seed))))


@dataclass(frozen=True)
class Setup:
    """How organisms are made and judged.

    Attributes:
        recipes: Of the bases, by kind.
        planting: How answers are planted.
        judging: On how much organisms are judged.
        cache_dir: Where models are kept.
    """

    recipes: Mapping[str, Recipe]
    planting: GroundTruthConfig
    judging: Judging
    cache_dir: str | None

    def base_of(self, candidate: Candidate) -> str:
        """Hash of a candidate's base; candidates with the same one share it."""
        return organism_key(self.recipes[candidate.kind], candidate.seed)

    def key_of(self, candidate: Candidate) -> str:
        """Hash of everything that a candidate's answer depends on."""
        how = [self.planting.model_dump(), self.judging.model_dump(), THRESHOLDS, judges()]
        return key_of("candidate", candidate.name, self.base_of(candidate), how)


@cache
def judges() -> str:
    """Hash of the code that measures and judges: an answer is never taken from other code."""
    return code_behind(__name__)


def read_candidate(store: Store, setup: Setup, candidate: Candidate) -> CalibratedOrganism | None:
    """Return what is kept of a candidate; None where it is not there whole."""
    name = _artifact(candidate)
    if store.state(name, setup.key_of(candidate)) != "ready":
        return None
    return CalibratedOrganism.model_validate_json(store.read(name))


def _refuse(store: Store, setup: Setup, candidate: Candidate, why: str) -> CalibratedOrganism:
    """Keep the record of a candidate that could not be planted."""
    found = CalibratedOrganism(
        kind=candidate.kind,
        seed=candidate.seed,
        variant=candidate.variant,
        scored=False,
        why_rejected=why,
        figures={},
        trained=[],
        label=None,
        outcome=None,
        reason="",
        improvement=None,
        shares=None,
        checks=[],
        seconds=0.0,
    )
    _keep(store, setup, candidate, found)
    return found


def work_on(root: Path, setup: Setup, candidates: Sequence[Candidate]) -> list[CalibratedOrganism]:
    """Plant and judge candidates that share a base, one after the other, on one thread."""
    threads, store, first = torch.get_num_threads(), Store(root), candidates[0]
    torch.set_num_threads(1)
    try:
        try:
            organism(setup.recipes[first.kind], first.seed, setup.cache_dir)
        except CircuitlapseError as error:  # it did not pass its gate
            return [_refuse(store, setup, each, str(error)) for each in candidates]
        return [_work_on(store, setup, each) for each in candidates]
    finally:
        torch.set_num_threads(threads)


def _work_on(store: Store, setup: Setup, candidate: Candidate) -> CalibratedOrganism:
    started = time.monotonic()
    try:
        planted = plant(
            candidate.kind,
            candidate.seed,
            variant=candidate.variant,
            recipe=setup.recipes[candidate.kind],
            planting=setup.planting,
            cache_dir=setup.cache_dir,
        )
    except CircuitlapseError as error:
        return _refuse(store, setup, candidate, str(error))
    is_stress = candidate.variant == ALL_WEIGHTS
    if planted.why_rejected and not is_stress:
        judged = None
    else:
        judged = judge(planted.base, planted.tuned, planted.placebo, setup.judging)
    decision = judged and judged.decision
    causes = decision and decision.causes
    found = CalibratedOrganism(
        kind=candidate.kind,
        seed=candidate.seed,
        variant=candidate.variant,
        scored=not planted.why_rejected and not is_stress,
        why_rejected=planted.why_rejected,
        figures=dict(planted.figures),
        trained=list(planted.trained),
        label=decision.label if decision else None,
        outcome=outcome_of(candidate.kind, decision.label) if decision else None,
        reason=decision.reason if decision else "",
        improvement=causes.improvement if causes else None,
        shares={str(cause): share for cause, share in causes.shares.items()}
        if causes and causes.shares
        else None,
        checks=decision.checks if decision else [],
        seconds=round(time.monotonic() - started, 1),
    )
    if judged is not None:
        arrays, about = judged.evidence.to_arrays()
        with store.write(
            f"evidence/{candidate.name}.safetensors", setup.key_of(candidate)
        ) as draft:
            save_file(arrays, draft, metadata={"about": json.dumps(about)})
    _keep(store, setup, candidate, found)
    return found


def _keep(store: Store, setup: Setup, candidate: Candidate, found: CalibratedOrganism) -> None:
    with store.write(_artifact(candidate), setup.key_of(candidate)) as draft:
        draft.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _artifact(candidate: Candidate) -> str:
    return f"organisms/{candidate.name}.json"
