"""A name for what a head does, read off its signature.

The minima are those of the published heads' tests (:mod:`circuitlapse.circuits.head_tests`): a mean
attention of .1, a copying score of .5. A *second mention* is a named position that holds the token
of an earlier one, such as ``S_again``. The name is the first that fits:

    mover            attends from the last token to a named position that is no second mention, and
                     copies what it attends to
    negative mover   the same, and writes against it
    induction        on random tokens that come twice, attends to the one after the earlier mention
    duplicate token  on random tokens, or from a second mention to the first, attends to the earlier
                     mention
    previous token   on random tokens, attends to the one before
    reader           attends from the last token to a second mention (Wang et al.'s S-inhibition
                     heads do; what they do with it is not looked at)
    none             none of these

A head may fit several; its signature says which.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from circuitlapse.heads.head_profiles import Signatures

RoleName = Literal[
    "mover", "negative mover", "induction", "duplicate token", "previous token", "reader", "none"
]
# The smallest mean attention, copy score and attention on repeated tokens that count, here and in
# the tests of published heads.
ATTENDS, COPIES, REPEATS = 0.1, 0.5, 0.1
ROLE_NAMES: tuple[RoleName, ...] = get_args(RoleName)


def role_names(signatures: Signatures, again: Mapping[str, str]) -> list[RoleName]:
    """Name every head's role.

    Args:
        signatures: Of one model on one task.
        again: The first mention of every second mention, by its name.
    """
    return [_name(signatures.of(head), again) for head in signatures.heads]


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
    """The two named positions with the most attention between them; nothing where none are named.

    Args:
        own: One head's signature.
    """
    ways = {feature: weight for feature, weight in own.items() if ">" in feature}
    return max(ways.items(), key=lambda way: way[1], default=("", 0.0))
