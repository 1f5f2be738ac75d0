"""The table ``roles``: what each head does at each checkpoint, from what was read there anyway.

Signatures hold attention between named positions and the scores of copying, suppressing and
repeated tokens, and their distances are of these alone. What the query, key and value of a head
read stands beside them and enters no distance: the shares of edge scores of a head that hardly
matters are noise.
"""

from collections.abc import Iterator

import numpy as np

from circuitlapse.compare.role_names import role_names, strongest_way
from circuitlapse.compare.roles import Roles, compare_roles
from circuitlapse.compare.signatures import OWN, Signatures
from circuitlapse.config import Arm, file_label
from circuitlapse.models import Graph
from circuitlapse.models.graph import SLOTS
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.dynamics import dated
from circuitlapse.pipeline.measure import Arrays, load_arrays
from circuitlapse.pipeline.read import HALVES
from circuitlapse.pipeline.tabulate import Row, Scores

_READ_AS = {
    "copying": "copying", "suppressing": "negative_copying", "previous": "previous_token",
    "duplicate": "duplicate_token", "induction": "induction",
}  # fmt: skip
_OF_TASK = ("copying", "suppressing")
_SHOWN = 0.005  # changes of a feature that are more than nothing when rounded
_BETWEEN = 5  # the moves' null is drawn so many times less often before the last step


def signature_of(readings: Arrays, graph: Graph, task: str) -> Signatures:
    """Every head's signature on a task, from one checkpoint's readings."""
    label = file_label(task)
    values: dict[str, np.ndarray] = {}
    for name in sorted(readings):
        of, _, rest = name.partition(".attention.")
        if rest and of == label:
            values[rest] = readings[name].mean(axis=-1, dtype=np.float64)
    for feature in OWN:
        name = _READ_AS[feature]
        values[feature] = readings[f"{label}.{name}" if feature in _OF_TASK else name]
    columns = [each.astype(np.float64).flatten() for each in values.values()]
    return Signatures(graph.heads, tuple(values), np.stack(columns, axis=1))


def second_mentions(readings: Arrays, task: str) -> dict[str, str]:
    """The first mention of every second one: where queries and keys of one token were matched."""
    ways = (name.partition(f"{file_label(task)}.matching.")[2] for name in readings)
    return {late: early for late, _, early in (way.partition(">") for way in ways if way)}


class RolesOf:
    """The roles of one fine-tune's heads on one task, at any of its steps."""

    def __init__(self, scores: Scores, arm: Arm, task: str) -> None:
        """Read the base's signature, its halves and the placebos'."""
        self._scores, self._arm, self._task = scores, arm, task
        self._again = second_mentions(self._readings(plan.readings(arm.name, 0)), task)
        halves = self._readings(plan.half_readings(arm.name))
        self._halves = tuple(
            self._signature(
                {name[len(half) + 1 :]: values for name, values in halves.items()
                 if name.startswith(f"{half}/")}
            )
            for half in HALVES
        )  # fmt: skip
        self._placebos = [
            self._at(plan.readings(placebo.name, scores.last))
            for placebo in scores.experiment.noise_placebos(arm)
        ]
        self._base = self._at(plan.readings(arm.name, 0))

    def _readings(self, name: str) -> Arrays:
        return load_arrays(self._scores.store.read(name))

    def _signature(self, readings: Arrays) -> Signatures:
        return signature_of(readings, self._scores.graph, self._task)

    def _at(self, name: str) -> Signatures:
        return self._signature(self._readings(name))

    def at(self, step: int) -> tuple[Signatures, Roles]:
        """The signatures at a step, and how they differ from the base's."""
        settings = self._scores.experiment.compare
        found = self._at(plan.readings(self._arm.name, step))
        few = 1 if step == self._scores.last else _BETWEEN
        first, second = self._halves
        return found, compare_roles(
            self._base, found, (first, second), self._placebos,
            seed=settings.seed, repeats=max(1, settings.permutations // few),
        )  # fmt: skip

    def changed(self, step: int) -> tuple[str, ...]:
        """Heads whose role changed, for their fates.

        None where no placebo was run: any fine-tune moves signatures beyond what halves of the
        prompts do (on one organism 24 of 32 heads, of which 11 are beyond a placebo's, too).
        """
        return self.at(step)[1].changed if self._placebos else ()

    def rows(self, step: int) -> Iterator[Row]:
        """Rows of the table at one step."""
        scores = self._scores
        signatures, roles = self.at(step)
        came = {move.target: move for move in roles.moves}
        reads = self._reads(step)
        names = role_names(signatures, self._again)
        places = [scores.graph.places[column] for column in scores.graph.head_nodes]
        for index, (change, place) in enumerate(zip(roles.changes, places, strict=True)):
            own, move = signatures.of(change.head), came.get(change.head)
            way, attention = strongest_way(own)
            moved = [f"{name} {by:+.2f}" for name, by in change.features if abs(by) >= _SHOWN]
            yield {
                **scores.names(self._arm),
                "step": step,
                "task": self._task,
                "node": change.head,
                "layer": place.layer,
                "head": place.head,
                "role": names[index],
                "attends": way,
                "attention": attention,
                **{feature: own[feature] for feature in OWN},
                **{name: values[index] for name, values in reads.items()},
                "distance": change.distance,
                "noise": change.noise,
                "changed": change.changed,
                "features": ", ".join(moved),
                "source": move.source if move else "",
                "approach": move.approach if move else None,
                "moves_p": roles.p_value,
            }

    def _reads(self, step: int) -> dict[str, list]:
        family = self._scores.experiment.measure.corruptions[0]
        mean, halves = (
            self._scores.family(self._arm.name, step, self._task, name, family)
            for name in ("edges", "halves")
        )
        return strongest_reads(self._scores.graph, mean, halves)


def strongest_reads(graph: Graph, mean: np.ndarray, halves: np.ndarray) -> dict[str, list]:
    """Name what every head's query, key and value read most.

    Args:
        graph: The model's graph.
        mean: Edge scores, ``[writers, readers]``.
        halves: The same on the even and on the odd prompts, ``[2, writers, readers]``.

    Returns:
        ``q_reads``, ``q_share`` and so on, one entry per head: the writer with the largest share of
        the absolute scores into that slot, and the share; nothing where these sum to no more than
        the noise that the halves show, half the absolute difference of each edge's two.
    """
    sizes, noise = np.abs(mean), np.abs(halves[0] - halves[1]) / 2
    found: dict[str, list] = {}
    for slot in SLOTS:
        columns = graph.slot_columns(slot)
        into = sizes[:, columns].astype(np.float64)
        total, best = into.sum(axis=0), into.argmax(axis=0)
        clear = total > noise[:, columns].sum(axis=0, dtype=np.float64)
        found[f"{slot}_reads"] = [
            graph.writers[writer] if known else ""
            for writer, known in zip(best, clear, strict=True)
        ]
        found[f"{slot}_share"] = [
            float(most / whole) if known else None
            for most, whole, known in zip(into.max(axis=0), total, clear, strict=True)
        ]
    return found


def role_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``roles``, at every step."""
    rows: list[Row] = []
    for arm in scores.experiment.arms():
        for task in scores.tasks:
            found = RolesOf(scores, arm, task)
            steps = scores.experiment.steps()
            rows += dated((row for step in steps for row in found.rows(step)), "role")
    return rows
