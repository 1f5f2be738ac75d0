"""Heads that others have found and published: answers that are known before anything is computed.

Wang et al. (2022), "Interpretability in the wild: a circuit for indirect object identification in
GPT-2 small". The paper's S2 is the position ``S_again`` here, its S1 is ``S``.
"""

from circuitlapse.circuits.roles import Attends, Copies, FeedsQueries, Repeats, Role

_NAME_MOVERS = ((9, 9), (10, 0), (9, 6))
_TO_RECIPIENT = Attends("END", "IO")
_COPIES_NAMES = Copies(("IO", "S"))

IOI_HEADS: tuple[Role, ...] = (
    Role("name mover", _NAME_MOVERS, (_TO_RECIPIENT, _COPIES_NAMES)),
    Role(
        "backup name mover",
        ((10, 10), (10, 6), (10, 2), (10, 1), (11, 2), (9, 7), (9, 0), (11, 9)),
        (_TO_RECIPIENT, _COPIES_NAMES),
    ),
    Role(
        "negative name mover",
        ((10, 7), (11, 10)),
        (_TO_RECIPIENT, Copies(("IO", "S"), negative=True)),
    ),
    Role(
        "S-inhibition",
        ((7, 3), (7, 9), (8, 6), (8, 10)),
        (Attends("END", "S_again"), FeedsQueries(_NAME_MOVERS)),
    ),
    Role(
        "induction",
        ((5, 5), (5, 8), (5, 9), (6, 9)),
        (Attends("S_again", "S+1"), Repeats("induction")),
    ),
    Role(
        "duplicate token",
        ((0, 1), (0, 10), (3, 0)),
        (Attends("S_again", "S"), Repeats("duplicate")),
    ),
    Role("previous token", ((2, 2), (4, 11)), (Attends("S+1", "S"), Repeats("previous"))),
)
"""The circuit for indirect object identification in GPT-2 small: 26 heads in seven roles."""
