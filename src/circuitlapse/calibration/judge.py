"""Label of an organism, from the same evidence, preconditions and rule as the label of a run."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from circuitlapse.models.engine.behaviour import behaviour, logit_differences
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.load import load_model
from circuitlapse.organisms.organism_cache import NEW, OLD
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.documents import Precondition
from circuitlapse.records.items import Item, shortcut_hits
from circuitlapse.shapes import Bool
from circuitlapse.stats.intervals import Estimate, mean_interval, proportion_interval
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.two_models.cause_evidence import EvidencePrompts, cause_evidence
from circuitlapse.verdict.decision import Decision, decide_causes
from circuitlapse.verdict.evidence import CauseEvidence
from circuitlapse.verdict.preconditions import PLACEBO_CHECK, Findings, check_preconditions
from circuitlapse.verdict.thresholds import JUDGED_GROUPS

_FAMILY = "subject"
_SPLITS = ("test", "test_templates")


class Judging(BaseModel):
    """On how many prompts an organism is judged.

    Attributes:
        validation: Validation prompts per task, on which scales are fitted and heads chosen.
        test: Test prompts for shares, grafts and mediation.
        answers: Test prompts per task and split for the preconditions.
        n_random: Random groups to compare each group of heads with.
        seed: Seed of random groups and bootstrap.
        repeats: Resamples of the bootstrap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: int = 128
    test: int = 256
    answers: int = 1024
    n_random: int = JUDGED_GROUPS
    seed: int = 0
    repeats: int = 1000


@dataclass(frozen=True, eq=False)
class Judged:
    """The label of one organism and its evidence."""

    decision: Decision
    evidence: CauseEvidence


def judge(base: Path, tuned: Path, placebo: Path | None, judging: Judging) -> Judged:
    """Judge one fine-tune from the directories of its models.

    Without a placebo (the organism is itself one) the precondition on placebos is left out.
    """
    before, after = load_model(base, "cpu"), load_model(tuned, "cpu")
    tokenizer = before.tokenizer

    def variants(task: str) -> dict[str, PromptPairs]:
        items = get_task(task).items("validation", judging.validation)
        return {v: tokenize(items, tokenizer, v) for v in get_task(task).families[_FAMILY]}

    asked = {split: get_task(NEW).items(split, judging.answers) for split in _SPLITS}
    test = tokenize(asked["test"][: judging.test], tokenizer, "names")
    evidence = cause_evidence(
        before,
        after,
        EvidencePrompts(variants(OLD), variants(NEW), test),
        seed=judging.seed,
        n_random=judging.n_random,
    )
    control = None if placebo is None else load_model(placebo, "cpu")
    preconditions = _preconditions(before, after, control, asked, judging.answers)
    decision = decide_causes(
        [evidence.run(preconditions)], seed=judging.seed, repeats=judging.repeats
    )
    return Judged(decision, evidence)


def _preconditions(
    base: Model, tuned: Model, placebo: Model | None, asked: dict[str, list[Item]], n: int
) -> list[Precondition]:
    items = get_task(OLD).items("test", n)
    old = tokenize(items, base.tokenizer, get_task(OLD).families[_FAMILY][0])
    new = {split: tokenize(each, base.tokenizer, "names") for split, each in asked.items()}
    answers = {split: behaviour(tuned, pairs) for split, pairs in new.items()}
    first = behaviour(base, new["test"])
    clean, corrupt = logit_differences(base, old)
    rise = answers["test"].logit_diff - first.logit_diff
    placebo_gain = None
    if placebo is not None:
        risen = behaviour(placebo, new["test"]).logit_diff - first.logit_diff
        placebo_gain = mean_interval(risen)
    margins = {
        (rule, split): mean_interval(answers[split].candidate_correct.astype(np.float64) - hits)
        for split in _SPLITS
        for rule, hits in shortcut_hits(asked[split]).items()
    }
    findings = Findings(
        base_old=_accuracy(behaviour(base, old).candidate_correct),
        base_new=_accuracy(first.candidate_correct),
        tuned_old=_accuracy(behaviour(tuned, old).candidate_correct),
        tuned_new=_accuracy(answers["test"].candidate_correct),
        tuned_new_templates=_accuracy(answers["test_templates"].candidate_correct),
        candidates=len(asked["test"][0].distractors) + 1,
        old_difference=mean_interval((clean - corrupt).double().numpy()),
        placebo_gain=placebo_gain,
        shortcuts=margins,
    )
    checks = check_preconditions(findings, mean_interval(rise))
    if placebo is not None:
        return checks
    return [check for check in checks if check.name != PLACEBO_CHECK]


def _accuracy(right: Bool[np.ndarray, " prompts"]) -> Estimate:
    return proportion_interval(int(right.sum()), len(right))
