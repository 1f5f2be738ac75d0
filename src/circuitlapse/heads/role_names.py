"""Role names of heads, from their profiles.

The minima are those of the published heads' tests (:mod:`circuitlapse.circuits.head_tests`): a mean
attention of .1, a copy score of .5. A *second mention* is a named position with the token of an
earlier one, such as ``S_again``. The name is the first that fits:

    mover            attends from the last token to a named position that is no second mention, and
                     copies its token
    negative mover   the same, with a high negative copy score
    induction        on repeated random tokens, attends to the one after the earlier mention
    duplicate token  on repeated random tokens, or from a second mention to the first, attends to
                     the earlier mention
    previous token   on repeated random tokens, attends to the one before
    reader           attends from the last token to a second mention, as the S-inhibition heads of
                     Wang et al. (2022) do; their output is not tested
    none             none of these

A head may fit several; its profile says which.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from circuitlapse.heads.head_profiles import HeadProfiles

RoleName = Literal[
    "mover", "negative mover", "induction", "duplicate token", "previous token", "reader", "none"
]
# Minima of mean attention, copy score and attention on repeated tokens.
ATTENDS, COPIES, REPEATS = 0.1, 0.5, 0.1
ROLE_NAMES: tuple[RoleName, ...] = get_args(RoleName)


def role_names(profiles: HeadProfiles, again: Mapping[str, str]) -> list[RoleName]:
    """Name every head's role; ``again`` maps each second mention to its first mention."""
    return [_name(profiles.of(head), again) for head in profiles.heads]


def _name(own: Mapping[str, float], again: Mapping[str, str]) -> RoleName:
    from_last = {
        feature.partition(">")[2]: weight
        for feature, weight in own.items()
        if feature.startswith("END>")
    }
    first = max((weight for at, weight in from_last.items() if at not in again), default=0.0)
    second = max((weight for at, weight in from_last.items() if at in again), default=0.0)
    earlier = max((own.get(f"{late}>{early}", 0.0) for late, early in again.items()), default=0.0)
    if first >= ATTENDS and own["copying"] >= COPIES:
        return "mover"
    if first >= ATTENDS and own["suppressing"] >= COPIES:
        return "negative mover"
    if own["induction"] >= REPEATS:
        return "induction"
    if own["duplicate"] >= REPEATS or earlier >= ATTENDS:
        return "duplicate token"
    if own["previous"] >= REPEATS:
        return "previous token"
    return "reader" if second >= ATTENDS else "none"


def strongest_attention(own: Mapping[str, float]) -> tuple[str, float]:
    """Return the two named positions with the most attention between them, as ``END>IO``."""
    attention = [(feature, weight) for feature, weight in own.items() if ">" in feature]
    return max(attention, key=lambda each: each[1], default=("", 0.0))
