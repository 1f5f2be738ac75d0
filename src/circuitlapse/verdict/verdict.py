"""The verdict on the fine-tunes of one recipe: their labels, in words, with what they rest on.

With one fine-tune the scope is that run. Up to four are judged one by one and have a label if all
have the same. From five on the label is that of the measures pooled over seeds and prompts, and
preconditions must hold in all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from circuitlapse.records.carriers import CHOICES
from circuitlapse.records.documents import Evidence, Labelled, OneSeed, Precondition, Verdict
from circuitlapse.stats.intervals import Estimate
from circuitlapse.verdict import label_marks, label_words, thresholds
from circuitlapse.verdict.gain import Gain
from circuitlapse.verdict.label import label
from circuitlapse.verdict.label_rules import LabelEvidence
from circuitlapse.verdict.measures import Measures, pooled_estimate, pooled_measures
from circuitlapse.verdict.preconditions import PLACEBO_CHECK
from circuitlapse.verdict.thresholds import POOLED_SEEDS

MARKS: dict[str, float] = {
    name: value
    for module in (label_marks, thresholds)
    for name, value in vars(module).items()
    if name.isupper()
}
"""The rule's marks, by name."""

NO_PLACEBO = "what a control fine-tune would change was not subtracted"


@dataclass(frozen=True)
class FineTune:
    """What the label of one fine-tune is made from."""

    gain: Gain
    measures: Measures
    preconditions: Sequence[Precondition] = ()

    @property
    def evidence(self) -> LabelEvidence:
        """The conditions' values, with the main choice of old-task heads."""
        return LabelEvidence.of(self.gain, self.measures, preconditions=self.preconditions)

    def labelled(self) -> Labelled:
        """Return its label, and the label with each other choice of old-task heads."""
        found = {
            choice: label(
                LabelEvidence.of(
                    self.gain, self.measures, choice=choice, preconditions=self.preconditions
                )
            )
            for choice in CHOICES
        }
        others = {choice: each.label for choice, each in found.items() if choice != "old"}
        return found["old"].model_copy(update={"survives": others})


def together(
    seeds: Mapping[int, FineTune], *, repeats: int = 1000, seed: int = 0
) -> tuple[Labelled, list[FineTune]]:
    """Return the label of one or more fine-tunes, and what it was made from."""
    each = list(seeds.values())
    if len(each) >= POOLED_SEEDS:
        pooled = _pooled(seeds, repeats, seed)
        return pooled.labelled(), [pooled]
    labels = {number: one.labelled() for number, one in seeds.items()}
    first = next(iter(labels.values()))
    if len(labels) == 1:
        return first, each
    answers = {(one.label, one.how) for one in labels.values()}
    if len(answers) > 1:
        said = "; ".join(f"seed {number}: {one.name}" for number, one in labels.items())
        reason = f"The seeds have different labels ({said})."
        return Labelled(label="undetermined", reason=reason), each
    # What is nearest to changing any of them would change the common label.
    marks = [one.nearest for one in labels.values() if one.nearest is not None]
    carriers = {one.carrier for one in labels.values()}
    survives = {
        choice: first.label
        if all(one.survives[choice] == one.label for one in labels.values())
        else "undetermined"
        for choice in first.survives
    }
    common = {
        "reason": " ".join(f"Seed {number}: {one.reason}" for number, one in labels.items()),
        "carrier": first.carrier if len(carriers) == 1 else "",
        "nearest": min(marks, key=lambda mark: mark.distance, default=None),
        "dropped": tuple(dict.fromkeys(text for one in labels.values() for text in one.dropped)),
        "survives": survives,
    }
    return first.model_copy(update=common), each


def build_verdict(
    seeds: Mapping[int, FineTune],
    evidence: Mapping[int, Iterable[Evidence]],
    named: label_words.Named,
    *,
    calibration: str,
    seed: int = 0,
    repeats: int = 1000,
) -> Verdict:
    """Return the verdict on the fine-tunes of one recipe, by seed."""
    found, judged = together(seeds, repeats=repeats, seed=seed)
    several = len(seeds) > 1
    values = [each.evidence for each in judged]
    return Verdict(
        **dict(found),
        sentence=label_words.sentence(found, values, named),
        says_not=label_words.says_not(found, values, named),
        was_it_there=label_words.was_it_there([each.measures for each in judged]),
        what_carries_it=label_words.what_carries_it(found, values),
        would_change=list(
            filter(None, (label_words.would_change(found), label_words.survival(found)))
        ),
        scope=_scope(found, seeds),
        calibration=calibration,
        improvement=_improvement(seeds, repeats, seed),
        seeds=[
            OneSeed(**dict(one.labelled()), finetune_seed=number, improvement=one.gain.logits)
            for number, one in seeds.items()
        ],
        preconditions=_checks(seeds),
        evidence=[
            each.model_copy(update={"statement": f"Seed {number}: {each.statement}"})
            if several
            else each
            for number, sentences in evidence.items()
            for each in sentences
        ],
    )


def _scope(found: Labelled, seeds: Mapping[int, FineTune]) -> str:
    n = len(seeds)
    about = "this run" if n == 1 else f"these {n} runs"
    if n >= POOLED_SEEDS:
        about = f"fine-tunes like these {n}"
    limits = list(found.dropped)
    if not any(
        check.name == PLACEBO_CHECK for one in seeds.values() for check in one.preconditions
    ):
        limits.append(NO_PLACEBO)
    return "; ".join([about, *limits])


def _checks(seeds: Mapping[int, FineTune]) -> list[Precondition]:
    """All preconditions; with several seeds each names its own."""
    return [
        check.model_copy(update={"name": f"{check.name} (seed {number})"})
        if len(seeds) > 1
        else check
        for number, one in seeds.items()
        for check in one.preconditions
    ]


def _improvement(seeds: Mapping[int, FineTune], repeats: int, seed: int) -> Estimate:
    values = [one.gain.logits for one in seeds.values()]
    if len(values) == 1:
        return values[0]
    return pooled_estimate(values, repeats, np.random.default_rng(seed))


def _pooled(seeds: Mapping[int, FineTune], repeats: int, seed: int) -> FineTune:
    """Pool the measures of several seeds."""
    generator = np.random.default_rng(seed)
    gains = [one.gain for one in seeds.values()]
    logits, accuracy, standardised = (
        pooled_estimate([getattr(gain, name) for gain in gains], repeats, generator)
        for name in ("logits", "accuracy", "standardised")
    )
    measures = pooled_measures([one.measures for one in seeds.values()], repeats=repeats, seed=seed)
    return FineTune(Gain(logits, accuracy, standardised), measures, _checks(seeds))
