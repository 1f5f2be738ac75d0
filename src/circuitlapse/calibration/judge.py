"""The label of a candidate, from the same measures and by the same rule as the label of a run.

Measures are rounded and kept before the label is made, so that a record alone gives it again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from typing import Any

import numpy as np

from circuitlapse.calibration.mechanisms import OLD, Made, NewTask
from circuitlapse.calibration.scored_rows import Row
from circuitlapse.calibration.settings import Settings
from circuitlapse.carriers.measure_carriers import CarrierPrompts, carriers
from circuitlapse.graph import head_of
from circuitlapse.models.engine.behaviour import behaviour, logit_differences
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.bits_ratio import BitsRatio
from circuitlapse.records.calibration import Answer, MeasuredValue, ScoredCandidate
from circuitlapse.records.documents import Precondition
from circuitlapse.records.items import shortcut_hits
from circuitlapse.shapes import Bool
from circuitlapse.stats.intervals import Estimate, mean_interval, proportion_interval
from circuitlapse.stats.measured import Measured
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.verdict.gain import Gain, measured_gain
from circuitlapse.verdict.label_marks import VARIABLE_USED
from circuitlapse.verdict.measures import Measures
from circuitlapse.verdict.preconditions import SHORTCUT_CHECK, Findings, check_preconditions
from circuitlapse.verdict.verdict import FineTune

FAMILY = "subject"
_SPLITS = ("test", "test_templates")
_BITS = "", "bits_ratio"
_NO_BITS = Measured(Estimate(value=0.0, low=0.0, high=0.0))
_DIGITS = 5


def variants(
    model: Model, task: str | NewTask, split: str, n: int, seed: int
) -> dict[str, PromptPairs]:
    """Return prompts of a task under each counterfactual of who acted."""
    of = get_task(task) if isinstance(task, str) else task.task
    items = (of if isinstance(task, str) else task).items(split, n, seed)
    return {v: tokenize(items, model.tokenizer, v) for v in of.families[FAMILY]}


def judge(
    made: Made,
    seed: int,
    relearned: Estimate | None,
    bits: Callable[[], BitsRatio],
    settings: Settings,
) -> dict[str, Any]:
    """Return a candidate's measures, as fields of its record.

    ``bits`` measures bits_ratio; it is asked only where it can matter. ``seed`` draws the prompts,
    which are those of the base.
    """
    base, tuned = load_model(made.base, "cpu"), load_model(made.tuned, "cpu")
    found = carriers(
        base,
        tuned,
        CarrierPrompts(
            variants(base, OLD, "validation", settings.validation, seed),
            variants(base, made.new, "validation", settings.validation, seed),
            variants(base, OLD, "test", settings.test, seed),
            variants(base, made.new, "test", settings.test, seed),
        ),
        trained=[part for part in made.trained if head_of(part)],
        n_groups=settings.n_groups,
    )
    gain, preconditions = _answers(base, tuned, made.new, seed, settings)
    measured = Measures.of_carriers(found, relearned=relearned)
    values = [
        _value(*key, measured.names.get(key[0], ()), each) for key, each in measured.found.items()
    ]
    fields: dict[str, Any] = {
        "gain": {each.name: _rounded(getattr(gain, each.name)) for each in dataclass_fields(gain)},
        "preconditions": tuple(preconditions),
        "bits": {},
    }
    # Bits are measured only where the smallest ratio would change the label.
    least = [*values, _value(*_BITS, (), _NO_BITS)]
    if _fine_tune(fields["gain"], preconditions, least).labelled().label == "elicited":
        ratio = bits()
        values.append(_value(*_BITS, (), ratio))
        fields["bits"] = {
            "new": round(ratio.new_bits, 1),
            "reference": round(ratio.reference_bits, 1),
            "orders": float(ratio.orders),
        }
    return {**fields, "measures": tuple(values)}


def answers(found: ScoredCandidate, row: Row) -> ScoredCandidate:
    """Return a record with its labels, made from its measures alone by the rule of this version."""
    if not found.measures:
        return found
    effect = found.measured("", "variable_effect")
    moved = effect is not None and effect.low >= VARIABLE_USED

    def answer(measures: Sequence[MeasuredValue], *, with_bits: bool) -> Answer:
        one = _fine_tune(found.gain, found.preconditions, measures).labelled()
        return Answer(
            label=one.label,
            how=one.how,
            carrier=one.carrier,
            outcome=row.outcome(one, moved=moved, with_bits=with_bits),
            reason=one.reason,
            survives=one.survives,
        )

    without = [each for each in found.measures if each.measure != _BITS[1]]
    labels = {
        "answer": answer(found.measures, with_bits=True),
        "answer_without_bits": answer(without, with_bits=False),
    }
    return found.model_copy(update=labels)


def _fine_tune(
    gain: Mapping[str, Estimate],
    preconditions: Sequence[Precondition],
    measures: Sequence[MeasuredValue],
) -> FineTune:
    rows = [
        {
            "heads": each.heads,
            "names": " ".join(each.names),
            "measure": each.measure,
            "value": each.estimate,
            "groups": each.groups,
            "not_reported": each.not_reported,
        }
        for each in measures
    ]
    return FineTune(Gain(**gain), Measures.of_rows(rows), preconditions)


def _value(heads: str, measure: str, names: tuple[str, ...], found: Measured) -> MeasuredValue:
    return MeasuredValue(
        heads=heads,
        names=names,
        measure=measure,
        estimate=None if found.estimate is None else _rounded(found.estimate),
        groups=tuple(round(each, _DIGITS) for each in found.groups),
        not_reported=found.not_reported,
    )


def _rounded(found: Estimate) -> Estimate:
    return Estimate(**{end: round(value, _DIGITS) for end, value in dict(found).items()})


def _answers(
    base: Model, tuned: Model, new: NewTask, seed: int, settings: Settings
) -> tuple[Gain, list[Precondition]]:
    """Return the gain and the preconditions.

    A rule that is one of the shortcut heuristics is not compared with them.
    """
    asked = {split: new.items(split, settings.answers, seed) for split in _SPLITS}
    pairs = {split: tokenize(each, base.tokenizer, "names") for split, each in asked.items()}
    items = get_task(OLD).items("test", settings.answers, seed)
    old = tokenize(items, base.tokenizer, get_task(OLD).families[FAMILY][0])
    before = behaviour(base, pairs["test"])
    after = {split: behaviour(tuned, each) for split, each in pairs.items()}
    clean, corrupt = logit_differences(base, old)
    gain = measured_gain(before, after["test"])
    findings = Findings(
        base_old=_accuracy(behaviour(base, old).candidate_correct),
        base_new=_accuracy(before.candidate_correct),
        tuned_old=_accuracy(behaviour(tuned, old).candidate_correct),
        tuned_new=_accuracy(after["test"].candidate_correct),
        tuned_new_templates=_accuracy(after["test_templates"].candidate_correct),
        candidates=len(asked["test"][0].distractors) + 1,
        old_difference=mean_interval((clean - corrupt).double().numpy()),
        placebo_gain=None,
        shortcuts={
            (rule, split): mean_interval(after[split].candidate_correct.astype(np.float64) - hits)
            for split in _SPLITS
            for rule, hits in shortcut_hits(asked[split]).items()
        },
    )
    checks = check_preconditions(findings, gain.logits)
    if new.rule is not None:
        checks = [check for check in checks if check.name != SHORTCUT_CHECK]
    return gain, checks


def _accuracy(right: Bool[np.ndarray, " prompts"]) -> Estimate:
    return proportion_interval(int(right.sum()), len(right))
