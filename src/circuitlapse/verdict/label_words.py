"""A label in words: its sentence for a paper, what it does not say, and what would change it.

Words describe the evidence and decide nothing. A sentence has at most three numbers. Up to four
seeds are judged one by one; then a number is the range over the seeds, not an interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isinf

from circuitlapse.stats.intervals import Estimate
from circuitlapse.verdict import label_marks as marks
from circuitlapse.verdict.label import Labelled
from circuitlapse.verdict.label_rules import LabelEvidence
from circuitlapse.verdict.measures import Measures
from circuitlapse.verdict.preconditions import logits, percent

CARRIERS = {
    "own_change": "the change of the old-task heads alone suffices",
    "idle_heads": "heads that the base does not use drive the change",
    "spread_out": "the change is spread out over the model",
}
FAITHFUL = 0.8
"""Share of what the old-task heads undo that a second circuit must undo, as of all effects."""
LOW_OVERLAP = 0.5
"""Largest share of a second circuit's heads that are old-task heads."""


@dataclass(frozen=True)
class Named:
    """What a sentence names: the model and the two tasks."""

    model: str
    old: str
    new: str


def sentence(found: Labelled, evidence: Sequence[LabelEvidence], named: Named) -> str:
    """Return the label as one sentence for a paper, from the evidence of each seed."""
    model, old, new = named.model, named.old, named.new
    said = partial(_value, evidence)
    bits = f"{said('bits_ratio')} times the bits of the reference task"
    same = f"dependence {said('dependence')}, same_directions {said('same_directions')}"
    solves = f"After fine-tuning, {model} solves {new} "
    match found.label, found.how:
        case "no_gain", _:
            return f"Fine-tuning {model} did not improve {new}: {_rises(evidence)}."
        case "another_rule", _:
            return (
                f"{solves}by a rule that does not use the variable of {old}: variable_effect is "
                f"{said('variable_effect')}."
            )
        case "elicited", _:
            return f"{model} could do {new} before fine-tuning: learning it took {bits}."
        case "formed", "new_heads":
            return (
                f"{solves}with new heads, whose change alone brings {said('new_sufficiency')} of "
                "the improvement."
            )
        case "formed", _:
            return f"{solves}with its heads for {old}, in other directions than before ({same})."
        case "transformed", _:
            return (
                f"{solves}with its heads for {old}, in the same directions as before ({same}), and "
                f"had to be taught it: learning took {bits}."
            )
        case "reused", _:
            return (
                f"{solves}with its heads for {old}, in the same directions as before ({same}); "
                f"whether it could do {new} before is open."
            )
        case "not_old_heads", _:
            return (
                f"{solves}without its heads for {old} (dependence {said('dependence')}); what "
                "carries it was not found."
            )
    missed = f": {found.nearest.text()}" if found.nearest else ""
    return f"The evidence does not decide how {model} came to solve {new}{missed}."


def _value(evidence: Sequence[LabelEvidence], measure: str) -> str:
    """A measure with its interval; of several seeds, the range of their values."""
    return _text([getattr(each, measure).estimate for each in evidence])


def _text(found: Sequence[Estimate | None]) -> str:
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return "not measured"
    if any(isinf(each.high) for each in known):
        return f"at least {min(each.low for each in known):.2f}"
    if len(known) == 1:
        return known[0].text()
    values = [each.value for each in known]
    return f"{min(values):.2f} to {max(values):.2f} in {len(values)} seeds"


def _rises(evidence: Sequence[LabelEvidence]) -> str:
    if len(evidence) > 1:
        return f"the logit difference rose by {_text([e.gain.logits for e in evidence])}"
    gain = evidence[0].gain
    return (
        f"the logit difference rose by {logits(gain.logits)}, or {gain.standardised.text()} "
        f"standard deviations of the logits, and the candidate accuracy by {percent(gain.accuracy)}"
    )


def says_not(found: Labelled, evidence: Sequence[LabelEvidence], named: Named) -> list[str]:
    """Return what the label does not say, in sentences; the known limits come last."""
    old, new = named.old, named.new
    own = {
        "no_gain": [f"It does not say that {named.model} cannot learn {new}."],
        "another_rule": ["It does not say which rule the model follows."],
        "elicited": [
            f"It does not say that the base used the ability before, or which heads carry {new}.",
            "The bits are those of this recipe and this reference task.",
        ],
        "formed": ["It does not say that no other part of the model takes part."],
        "transformed": ["It does not say which changed weights caused the improvement."],
        "reused": ["It does not say which changed weights caused the improvement."],
        "not_old_heads": [f"It does not say what carries {new}: no set of heads tested here does."],
        "undetermined": ["It is no evidence against any label."],
    }
    limits = []
    if found.label in ("transformed", "reused", "formed"):
        limits.append("Other sets of heads may be as faithful: circuits are not unique.")
    depends = [each.dependence.estimate for each in evidence]
    if any(each is not None and each.low >= marks.DEPENDENT for each in depends):
        limits.append(
            f"High dependence may be a bottleneck: another mechanism for {new} may also pass "
            f"through the heads of {old}."
        )
    return [*own[found.label], *limits]


def would_change(found: Labelled) -> str:
    """Name the nearest mark with its distance; empty where no mark decided."""
    return "" if found.nearest is None else f"The nearest mark: {found.nearest.text()}."


def was_it_there(measures: Sequence[Measures]) -> str:
    """Answer the first question, whatever the label is, from the measures of each seed."""
    # Bits and what the base prefers are the same for all seeds.
    ratio, right = (measures[0].of("", name) for name in ("bits_ratio", "right_before"))
    q = ratio.estimate
    if q is None:
        said = f"Not known: {ratio.not_reported}."
    else:
        answer = "The bits leave it open"
        if q.high <= marks.LATENT_BITS:
            answer = "Yes, it was there"
        elif q.low > marks.LATENT_BITS:
            answer = "No, it had to be taught"
        said = (
            f"{answer}: learning took {_text([q])} times the bits of the reference task (mark "
            f"{marks.LATENT_BITS:.2f})."
        )
    if right.estimate is None:
        return said
    said += f" In {percent(right.estimate)} of its failures the base prefers the right candidate"
    shown = measures[0].of("", "gain_on_right").estimate if len(measures) == 1 else None
    hold = f"; these prompts hold {percent(shown)} of the improvement" if shown else ""
    return f"{said}{hold}."


def what_carries_it(found: Labelled, evidence: Sequence[LabelEvidence]) -> str:
    """Answer the second question, whatever the label is; the description never decides."""
    depends, new = _ends(evidence, "dependence"), _ends(evidence, "new_sufficiency")
    heads = f"the old-task heads (dependence {_value(evidence, 'dependence')})"
    if depends is None:
        why = next(e.dependence.not_reported for e in evidence if not e.dependence.estimate)
        parts = [f"dependence was not measured: {why}"]
    elif depends.low >= marks.DEPENDENT:
        parts = [f"{heads}, {_directions(evidence)}"]
    else:
        parts = [f"not {heads}" if depends.high <= marks.DEPENDENT else f"perhaps {heads}"]
    if new is not None and new.low >= marks.SUFFICIENT:
        brought = _value(evidence, "new_sufficiency")
        parts.append(f"new heads, whose change alone brings {brought} of the improvement")
    if found.carrier:
        parts.append(CARRIERS[found.carrier])
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _directions(evidence: Sequence[LabelEvidence]) -> str:
    same = _ends(evidence, "same_directions")
    if same is None:
        return "whose directions were not measured"
    if same.low >= marks.SAME_DIRECTIONS:
        where = "in the same directions as before"
    elif same.high <= marks.OTHER_DIRECTIONS:
        where = "in other directions than before"
    else:
        where = "partly in the same directions as before"
    return f"{where} (same_directions {_value(evidence, 'same_directions')})"


def _ends(evidence: Sequence[LabelEvidence], measure: str) -> Estimate | None:
    """The lowest and the highest end over the seeds; None if a seed lacks the measure."""
    found = [getattr(each, measure).estimate for each in evidence]
    if None in found:
        return None
    low, high = min(each.low for each in found), max(each.high for each in found)
    return Estimate(value=found[0].value, low=low, high=high)


def survival(found: Labelled) -> str:
    """Say whether the label survives other choices of heads; empty if no measure decided it."""
    chosen = {
        "half": "half as many old-task heads",
        "double": "twice as many",
        "without_best": "others in place of the best half",
    }
    other = [
        f"{label.replace('_', ' ')} with {chosen[choice]}"
        for choice, label in found.survives.items()
        if label != found.label
    ]
    if other:
        return f"The label changes with other old-task heads: {'; '.join(other)}."
    if not (found.conditions and found.survives):
        return ""
    return f"The label is the same with {', '.join(chosen[each] for each in found.survives)}."


def second_circuit(measures: Measures) -> str:
    """Say whether there is a second faithful circuit of low overlap.

    It is what is found when the best half of the old-task heads may not be chosen.
    """
    first, second = (measures.names.get(each, ()) for each in ("old", "without_best"))
    undone, again = (measures.of(each, "undone") for each in ("old", "without_best"))
    if undone.estimate is None or again.estimate is None:
        why = undone.not_reported or again.not_reported
        return f"Whether there is a second faithful circuit was not measured: {why}."
    shared = len(set(first) & set(second))
    about = (
        f"{len(second)} heads, {shared} of them old-task heads, undo {again.estimate.text()} of "
        f"the variable's effect on the old task; the old-task heads undo {undone.estimate.text()}."
    )
    faithful = again.estimate.low >= FAITHFUL * undone.estimate.value
    if faithful and shared <= LOW_OVERLAP * len(second):
        return f"There is a second faithful circuit of low overlap: {about}"
    return f"A second faithful circuit of low overlap was not found: {about}"
