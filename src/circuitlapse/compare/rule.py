"""What is known of the decision rule: how often it named what was planted.

The sentence stands in every verdict. It is worded from the calibration that the rule was released
with (:func:`circuitlapse.records.calibration.released`): no figure in it is written by hand.
"""

from circuitlapse.compare import thresholds
from circuitlapse.records.calibration import Calibration, Tally

THRESHOLDS: dict[str, float] = {
    name: value for name, value in vars(thresholds).items() if name.isupper()
}
"""The rule's thresholds, by name."""


def known_of_rule(found: Calibration) -> str:
    """Say how often the rule was right on models whose answer was planted.

    Of a calibration with other thresholds than those in use, it says that nothing is known.
    """
    if found.thresholds != THRESHOLDS:
        return (
            "its thresholds are not those that were calibrated, so that its errors are not known "
            "(docs/calibration.md)"
        )
    tallies = {each.kind: each for each in found.tallies}
    causes, nothing = tallies["all causes"], tallies["nothing"]
    seeds = [each.seed for each in found.organisms if each.scored]
    return (
        f"frozen, then scored once on {causes.n + nothing.n} small models whose answer was planted "
        f"(seeds {min(seeds)} to {max(seeds)}), and since then made more careful in one place. Of "
        f"{causes.n} with a cause {_named(causes)}; of "
        f"{nothing.n} that learnt nothing {_named(nothing)}. On other models its errors are not "
        "known (docs/calibration.md)"
    )


def _named(tally: Tally) -> str:
    low, high = (100 * end for end in (tally.wrong_share.low, tally.wrong_share.high))
    return (
        f"it named {tally.right} rightly and {tally.wrong} wrongly ({low:.0f} to {high:.0f} %, "
        f"exact 95 % interval), and left {tally.undetermined} undetermined"
    )
