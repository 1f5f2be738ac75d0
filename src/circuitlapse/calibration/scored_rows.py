"""What is scored: mechanisms with their known truth, the bases, and all candidates.

Rule, marks, rows and seeds are committed before any of these candidates is made. Mechanisms that
are held out had no part in setting a mark. See docs/results/calibration.md.
"""

from dataclasses import dataclass
from typing import Literal

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_name
from circuitlapse.organisms.recipe import Recipe, get_recipe
from circuitlapse.records.calibration import Outcome
from circuitlapse.records.documents import Carrier, How, Label, Labelled
from circuitlapse.training.placebos import PLACEBOS
from circuitlapse.verdict import label_marks
from circuitlapse.verdict.verdict import MARKS

Mechanism = Literal[
    "old_heads",
    "erased_heads",
    "upper_blank_heads",
    "lower_blank_heads",
    "blank_head_lock",
    "layer_lock",
    "norm_lock",
    "first_named",
    "second_actor",
    "placebo",
    "head_adapters",
]

EDITION = 2
"""Raised by hand when candidates are made or measured in another way; then all are made again."""


_THRESHOLDS = ("OLD_MASTERED", "NEW_NOT_MASTERED", "NEW_LEARNT", "SMALLEST_ACCURACY_GAIN")


def marks() -> dict[str, float]:
    """Return the marks that a candidate's label depends on, by name."""
    names = [name for name in vars(label_marks) if name.isupper()]
    return {name: MARKS[name] for name in (*names, *_THRESHOLDS)}


@dataclass(frozen=True)
class Row:
    """One mechanism and what is right about it.

    Attributes:
        number: Row of the table; mechanisms of one number are one kind.
        mechanism: How its candidates are made; see :mod:`circuitlapse.calibration.mechanisms`.
        says: The mechanism in words.
        right: Labels that are right, with how.
        carrier: What carries the change, counted by itself; empty where it is not known.
        old_circuit: Whether the old circuit does the new task. Without bits_ratio ``reused`` is
            then right; with it, it says half of the truth and counts as undetermined.
        by_variable: Whether a label is counted apart where the old task's variable moves the new
            answer, unless it says that the ability was there or is not: which circuit does it is
            not known then.
        held_out: Whether no mark was looked at on this mechanism.
        bases: Which bases have a candidate, by their place in :data:`BASES`.
    """

    number: int
    mechanism: Mechanism
    says: str
    right: tuple[tuple[Label, How], ...]
    bases: tuple[int, ...]
    carrier: Carrier = ""
    old_circuit: bool = False
    by_variable: bool = False
    held_out: bool = False

    @property
    def truth(self) -> str:
        """The right labels in words."""
        names = [Labelled(label=label, how=how, reason="").name for label, how in self.right]
        more = "; open if variable_effect is above 0, but never elicited or no gain"
        return " or ".join(names) + (more if self.by_variable else "")

    def outcome(self, found: Labelled, *, moved: bool, with_bits: bool) -> Outcome:
        """Compare a label with the truth. ``moved``: the variable moves the new answer."""
        if (found.label, found.how) in self.right:
            return "right"
        if self.by_variable and moved and found.label not in _NEVER:
            return "open"
        if found.label == "reused" and self.old_circuit:
            return "undetermined" if with_bits else "right"
        return "undetermined" if found.label == "undetermined" else "wrong"


_NEVER: tuple[Label, ...] = ("elicited", "no_gain", "undetermined")
_ALL = tuple(range(12))
_FOREIGN: tuple[tuple[Label, How], ...] = (("another_rule", ""), ("not_old_heads", ""))
_TRANSFORMED: tuple[tuple[Label, How], ...] = (("transformed", ""),)
_ELICITED: tuple[tuple[Label, How], ...] = (("elicited", ""),)

ROWS: tuple[Row, ...] = (
    Row(1, "old_heads", "old-task heads trained alone", _TRANSFORMED, _ALL, "own_change", True),
    Row(
        2,
        "erased_heads",
        "old-task heads erased, then trained alone",
        (("formed", "in_place"),),
        _ALL,
    ),
    Row(
        3,
        "upper_blank_heads",
        "unused heads of the upper layers trained alone",
        (("formed", "new_heads"),),
        _ALL,
    ),
    Row(
        4,
        "lower_blank_heads",
        "unused heads of the lower layers trained alone",
        _TRANSFORMED,
        _ALL,
        "idle_heads",
        True,
    ),
    Row(
        5,
        "blank_head_lock",
        "lock by unused heads, opened",
        _ELICITED,
        (6, 7, 8, 9, 10, 11),
        old_circuit=True,
    ),
    Row(
        5,
        "layer_lock",
        "lock by one layer, opened",
        _ELICITED,
        (1, 2, 3, 4, 7, 9),
        old_circuit=True,
        held_out=True,
    ),
    Row(
        5,
        "norm_lock",
        "lock by norms and biases, opened",
        _ELICITED,
        (0, 1, 2, 3, 4, 5),
        old_circuit=True,
        held_out=True,
    ),
    Row(6, "first_named", "rule: the name that is listed first", _FOREIGN, (0, 1, 2, 3)),
    Row(
        6,
        "second_actor",
        "rule: the person who acts second",
        _FOREIGN,
        tuple(range(4, 12)),
        by_variable=True,
        held_out=True,
    ),
    Row(7, "placebo", "control fine-tune that cannot teach the task", (("no_gain", ""),), _ALL),
    Row(
        8,
        "head_adapters",
        "low-rank adapters on the old-task heads alone",
        _TRANSFORMED,
        (0, 1, 2, 3, 4, 5),
        "own_change",
        True,
        held_out=True,
    ),
)


@dataclass(frozen=True)
class Base:
    """One base: its recipe, and the seeds that are tried in turn until its gate holds."""

    name: str
    recipe: Recipe
    seeds: tuple[int, ...]


def _blank(recipe: Recipe, numbers: tuple[int, ...]) -> tuple[str, ...]:
    """The last heads of each layer, so many in each."""
    return tuple(
        head_name(layer, head)
        for layer, n in enumerate(numbers)
        for head in range(recipe.heads - n, recipe.heads)
    )


def _architecture(blank: tuple[int, ...] = (2, 2, 3, 3), **changes: object) -> Recipe:
    recipe = get_recipe("default").model_copy(update=changes)
    return recipe.model_copy(update={"blank_heads": _blank(recipe, blank)})


_WIDE = {"d_model": 128, "learning_rate": 1.5e-3}
ARCHITECTURES: dict[str, Recipe] = {
    "gpt2-8": _architecture(),
    # No development seed of it reached the other gates' 0.98.
    "llama": _architecture(family="llama", d_head=16, old_at_least=0.95),
    "neox": _architecture(family="gpt_neox"),
    "gpt2-16": _architecture(**_WIDE),
    "gpt2-32": _architecture((1, 1, 1, 1), **_WIDE, heads=4),
}
"""By name; a number is that of dimensions a head."""

FIRST_SEED, TRIES = 2001, 5
_ORDER = (
    *("gpt2-8", "neox", "gpt2-16", "gpt2-32"),
    *("gpt2-8", "neox", "gpt2-16", "gpt2-32"),
    *("gpt2-8", "neox", "gpt2-8", "llama"),
)
BASES: tuple[Base, ...] = tuple(
    Base(
        f"{name}-{_ORDER[: place + 1].count(name)}",
        ARCHITECTURES[name],
        tuple(FIRST_SEED + place + len(_ORDER) * again for again in range(TRIES)),
    )
    for place, name in enumerate(_ORDER)
)


@dataclass(frozen=True)
class Candidate:
    """One candidate: a mechanism on a base.

    Attributes:
        row: Its mechanism and truth.
        base: Its base.
        seed: Seed of its fine-tunes and of their prompts.
        variant: The placebo; else empty.
        place: Which of its mechanism's candidates it is.
    """

    row: Row
    base: Base
    seed: int
    variant: str = ""
    place: int = 0

    @property
    def name(self) -> str:
        """Its name in messages and in the store."""
        return f"{self.row.number}-{self.row.mechanism}-{self.base.name}"


def candidates(rows: tuple[int, ...] = ()) -> list[Candidate]:
    """Return all candidates, or those of some rows, base by base."""
    seed, found = FIRST_SEED + 1000, []
    for row in ROWS:
        for place, at in enumerate(row.bases):
            variant = PLACEBOS[place % len(PLACEBOS)] if row.mechanism == "placebo" else ""
            found.append(Candidate(row, BASES[at], seed, variant, place))
            seed += 1
    wanted = [each for each in found if not rows or each.row.number in rows]
    return sorted(wanted, key=lambda each: BASES.index(each.base))


def candidate_of(mechanism: str, architecture: str, seed: int) -> Candidate:
    """Return a candidate that is not scored, on a base of its own.

    Raises:
        CircuitlapseError: If there is no such mechanism or architecture.
    """
    mechanisms = [row.mechanism for row in ROWS]
    for what, given, known in (
        ("mechanism", mechanism, mechanisms),
        ("architecture", architecture, [*ARCHITECTURES]),
    ):
        if given not in known:
            raise CircuitlapseError(
                f"there is no such {what}", got=given, fix=f"Use one of {', '.join(known)}"
            )
    base = Base(f"{architecture}-seed-{seed}", ARCHITECTURES[architecture], (seed,))
    row = ROWS[mechanisms.index(mechanism)]
    return Candidate(row, base, seed, PLACEBOS[0] if mechanism == "placebo" else "")
