"""One candidate of a calibration: make the organism, validate it, judge it and keep the answer."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from safetensors.numpy import save_file

from circuitlapse.calibration.ground_truth import ALL_WEIGHTS, make_organism
from circuitlapse.calibration.judge import Judging, judge
from circuitlapse.calibration.tally import outcome_of
from circuitlapse.errors import CircuitlapseError
from circuitlapse.organisms.organism import organism, organism_key
from circuitlapse.organisms.organism_cache import GroundTruthConfig
from circuitlapse.organisms.pretraining import torch_threads
from circuitlapse.organisms.recipe import Recipe
from circuitlapse.pipeline.plan.source import code_behind
from circuitlapse.records.calibration import CalibratedOrganism
from circuitlapse.records.store import Store, key_of
from circuitlapse.verdict.verdict import MARKS


@dataclass(frozen=True)
class Candidate:
    """An organism to make; see :func:`circuitlapse.calibration.ground_truth.make_organism`."""

    kind: str
    seed: int
    variant: str = ""

    @property
    def name(self) -> str:
        """Its name in messages and in the store."""
        return "-".join(filter(None, (self.kind, self.variant, str(self.seed))))

    @property
    def artifact(self) -> str:
        """Where its record is kept."""
        return f"organisms/{self.name}.json"


@dataclass(frozen=True)
class Setup:
    """How organisms are made, with the recipes of the bases by kind, and judged."""

    recipes: Mapping[str, Recipe]
    ground_truth: GroundTruthConfig
    judging: Judging
    cache_dir: str | None

    def base_of(self, candidate: Candidate) -> str:
        """Hash of a candidate's base; candidates with the same one share it."""
        return organism_key(self.recipes[candidate.kind], candidate.seed)

    def key_of(self, candidate: Candidate) -> str:
        """Hash of everything that a candidate's answer depends on."""
        how = [self.ground_truth.model_dump(), self.judging.model_dump(), MARKS, judges()]
        return key_of("candidate", candidate.name, self.base_of(candidate), how)


@cache
def judges() -> str:
    """Hash the code that measures and judges, so that no answer of other code is reused."""
    return code_behind(__name__)


def read_candidate(store: Store, setup: Setup, candidate: Candidate) -> CalibratedOrganism | None:
    """Return a candidate's record; None if it is not there."""
    if store.state(candidate.artifact, setup.key_of(candidate)) != "ready":
        return None
    return CalibratedOrganism.model_validate_json(store.read(candidate.artifact))


def work_on(root: Path, setup: Setup, candidates: Sequence[Candidate]) -> list[CalibratedOrganism]:
    """Make and judge candidates that share a base, one after the other, on one thread."""
    store, first = Store(root), candidates[0]
    failure, results = "", []
    with torch_threads(1):
        try:
            organism(setup.recipes[first.kind], first.seed, setup.cache_dir)
        except CircuitlapseError as error:  # it did not pass its gate
            failure = str(error)
        for candidate in candidates:
            if failure:
                result = _rejected(candidate, failure)
            else:
                result = _make_and_judge(store, setup, candidate)
            with store.write(candidate.artifact, setup.key_of(candidate)) as draft:
                draft.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
            results.append(result)
    return results


def _rejected(candidate: Candidate, why: str) -> CalibratedOrganism:
    return CalibratedOrganism(**asdict(candidate), scored=False, why_rejected=why, seconds=0.0)


def _make_and_judge(store: Store, setup: Setup, candidate: Candidate) -> CalibratedOrganism:
    started = time.monotonic()
    try:
        made = make_organism(
            candidate.kind,
            candidate.seed,
            variant=candidate.variant,
            recipe=setup.recipes[candidate.kind],
            config=setup.ground_truth,
            cache_dir=setup.cache_dir,
        )
    except CircuitlapseError as error:
        return _rejected(candidate, str(error))
    is_stress = candidate.variant == ALL_WEIGHTS
    answer = {}
    if is_stress or not made.why_rejected:
        judged = judge(made.base, made.tuned, made.placebo, setup.judging)
        decision, causes = judged.decision, judged.decision.causes
        shares = causes.shares if causes else None
        answer = {
            "label": decision.label,
            "outcome": outcome_of(candidate.kind, decision.label),
            "reason": decision.reason,
            "improvement": causes.improvement if causes else None,
            "shares": {str(cause): share for cause, share in shares.items()} if shares else None,
            "checks": decision.checks,
        }
        arrays, about = judged.evidence.to_arrays()
        evidence = f"evidence/{candidate.name}.safetensors"
        with store.write(evidence, setup.key_of(candidate)) as draft:
            save_file(arrays, draft, metadata={"about": json.dumps(about)})
    return CalibratedOrganism(
        **asdict(candidate),
        scored=not made.why_rejected and not is_stress,
        why_rejected=made.why_rejected,
        figures=dict(made.figures),
        trained=list(made.trained),
        seconds=round(time.monotonic() - started, 1),
        **answer,
    )
