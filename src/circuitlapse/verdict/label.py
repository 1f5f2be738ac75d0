"""The label of one fine-tune: was the ability there, and what carries it?

The label is the first that fits, by the ends of intervals:

    no_gain        no rise on the new task; see :mod:`circuitlapse.verdict.gain`
    another_rule   variable_effect within [-0.1, 0.1]
    elicited       variable_effect low >= 0.1, bits_ratio high <= 0.6
    formed         new_heads: sufficiency of N low >= 0.5 and above its groups
    formed         in_place: dependence low >= 0.4, same_directions high <= 0.3, and the relearned
                   control, measured, high <= 0.3
    transformed    dependence low >= 0.4 and above its groups, same_directions low >= 0.5 and above
                   the relearned control's high end, bits_ratio low > 0.6
    reused         as transformed, but bits_ratio missing or across 0.6
    not_old_heads  dependence high <= 0.4
    undetermined   anything else; it names the marks that the nearest label misses

Other preconditions than a solved old task come after ``no_gain``. A condition on groups is dropped
with fewer than nine groups.
Where the two tasks change different variables, variable_effect and same_directions do not exist,
and the labels that need same_directions are not possible. The marks are those of
:mod:`circuitlapse.verdict.label_marks`.
"""

from collections.abc import Sequence
from typing import Any

from circuitlapse.records.documents import Carrier, Condition, Labelled
from circuitlapse.stats.measured import Measured
from circuitlapse.verdict import label_marks as marks
from circuitlapse.verdict.label_rules import LabelEvidence, Rule, rules_of
from circuitlapse.verdict.preconditions import OLD_TASK_DONE


def label(evidence: LabelEvidence) -> Labelled:
    """Return the label of one fine-tune."""
    gain = evidence.gain
    failed = [check.name for check in evidence.preconditions if not check.holds]
    unmet = _undetermined(f"A precondition fails: {'; '.join(failed)}.")
    if any(name.startswith(OLD_TASK_DONE) for name in failed) and not gain.alike:
        return unmet
    if absent := gain.absent():
        return Labelled(label="no_gain", reason=absent)
    if unclear := gain.unclear():
        return _undetermined(f"An improvement is not shown. {unclear}")
    if failed:
        return unmet
    effect = evidence.variable_effect
    if effect is not None and (moved := _variable(effect)):
        return moved
    rules = rules_of(evidence)
    for at, rule in enumerate(rules):
        if all(each.holds for each in rule.conditions):
            return _labelled(rule, rules[:at], evidence)
    nearest = min(rules, key=_missed_by)
    said = "; ".join(each.text() for each in nearest.missed)
    name = nearest.label + (f" ({nearest.how})" if nearest.how else "")
    return _undetermined(
        f"The nearest label is {name}, which is missed: {said}.",
        conditions=nearest.conditions,
        nearest=min(nearest.missed, key=lambda each: each.distance),
        dropped=nearest.dropped,
    )


def _missed_by(rule: Rule) -> tuple[bool, float]:
    """How far a rule is from fitting; first those that only lack a measurement."""
    missed = [each.distance for each in rule.missed if each.found is not None]
    only_lacks = not missed and len(rule.missed) < len(rule.conditions)
    return not only_lacks, max(each.distance for each in rule.missed)


def _labelled(rule: Rule, before: Sequence[Rule], evidence: LabelEvidence) -> Labelled:
    """The label of a rule that fits; nothing before it did."""
    # Another answer needs one condition to fail here, or all those missed before to hold.
    others = [max(each.missed, key=lambda one: one.distance) for each in before]
    nearest = min((*rule.conditions, *others), key=lambda each: each.distance)
    carried = rule.label in ("elicited", "transformed", "reused")
    said = "; ".join(f"{each.measure} {each.found:.2f}" for each in rule.conditions)
    return Labelled(
        label=rule.label,
        how=rule.how,
        carrier=_carrier(evidence) if carried else "",
        reason=f"{said}.",
        conditions=rule.conditions,
        nearest=nearest,
        dropped=rule.dropped,
    )


def _undetermined(reason: str, **found: Any) -> Labelled:
    return Labelled(label="undetermined", reason=reason, **found)


def _variable(effect: Measured) -> Labelled | None:
    """The labels that variable_effect decides; None if the variable moves the new answer."""
    found, most = effect.estimate, marks.VARIABLE_USED
    if found is None:
        return _undetermined(f"variable_effect is not reported: {effect.not_reported}.")
    if found.low >= most:
        return None
    low = Condition("variable_effect low", found.low, most, holds=False)
    high = Condition("variable_effect high", found.high, most, found.high <= most)
    above = Condition("variable_effect low", found.low, -most, found.low >= -most)
    if above.holds and high.holds:
        nearest = min(above, high, key=lambda each: each.distance)
        reason = f"variable_effect is {found.text()}: the new answer does not use the variable."
        conditions = (above, high)
        return Labelled(label="another_rule", reason=reason, conditions=conditions, nearest=nearest)
    if found.high < -most:
        reason = f"variable_effect is {found.text()}: the variable is used with the opposite sign."
        return _undetermined(reason, conditions=(above,), nearest=above)
    reason = f"variable_effect is {found.text()}: whether the variable is used is open."
    nearest = min((each for each in (low, high, above) if not each.holds), key=_distance)
    return _undetermined(reason, conditions=(low,), nearest=nearest)


def _distance(condition: Condition) -> float:
    return condition.distance


def _carrier(evidence: LabelEvidence) -> Carrier:
    """Describe what carries a reused circuit's change."""

    def clear(found: Measured, mark: float) -> bool:
        low = found.estimate is not None and found.estimate.low >= mark
        return low and found.above_groups is not False

    if clear(evidence.sufficiency, marks.SUFFICIENT):
        return "own_change"
    driven = (evidence.new_necessity, evidence.driving_necessity)
    return "idle_heads" if any(clear(each, marks.NECESSARY) for each in driven) else "spread_out"
