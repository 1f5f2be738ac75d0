"""The table ``roles``: what each head does at each checkpoint, from what was read there anyway.

Head profiles hold attention between named positions and the scores of copying, suppressing and
repeated tokens, and their distances are of these alone. What the query, key and value of a head
read is listed, too, and enters no distance: the shares of edge scores of a head that hardly
matters are noise.
"""

from collections.abc import Iterator

import numpy as np

from circuitlapse.analyses.analysis import Analysis, RunData
from circuitlapse.analyses.dynamics import dated
from circuitlapse.analyses.readings import HALVES
from circuitlapse.config.experiment import file_label
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.graph import SLOTS, GraphShape
from circuitlapse.heads.head_profiles import OWN, HeadProfiles, head_profiles
from circuitlapse.heads.role_changes import Roles, compare_roles
from circuitlapse.heads.role_names import role_names, strongest_attention
from circuitlapse.records import layout
from circuitlapse.records.arrays import Arrays, load_arrays
from circuitlapse.records.columns import (
    NODE,
    PLACE,
    STEP,
    TASK,
    TRAINING_RUN,
    Row,
    flag,
    integer,
    real,
    text,
)

_SHOWN = 0.005  # changes of a feature that are more than nothing when rounded
_BETWEEN = 5  # the moves' null is drawn so many times less often before the last step


def second_mentions(readings: Arrays, task: str) -> dict[str, str]:
    """The first mention of every second one: where queries and keys of one token were matched."""
    ways = (name.partition(f"{file_label(task)}.matching.")[2] for name in readings)
    return {late: early for late, _, early in (way.partition(">") for way in ways if way)}


class RolesOf:
    """The roles of one fine-tune's heads on one task, at any of its steps."""

    def __init__(self, scores: RunData, training_run: TrainingRun, task: str) -> None:
        """Read the base's profile, its halves and the placebos'."""
        self._scores, self._arm, self._task = scores, training_run, task
        self._again = second_mentions(self._readings(layout.readings(training_run.name, 0)), task)
        halves = self._readings(layout.half_readings(training_run.name))
        self._halves = tuple(
            self._profile(
                {
                    name[len(half) + 1 :]: values
                    for name, values in halves.items()
                    if name.startswith(f"{half}/")
                }
            )
            for half in HALVES
        )
        self._placebos = [
            self._at(layout.readings(placebo.name, scores.last))
            for placebo in scores.experiment.placebos_for_noise_floor(training_run)
        ]
        self._base = self._at(layout.readings(training_run.name, 0))

    def _readings(self, name: str) -> Arrays:
        return load_arrays(self._scores.store.read(name))

    def _profile(self, readings: Arrays) -> HeadProfiles:
        return head_profiles(readings, self._scores.graph, self._task)

    def _at(self, name: str) -> HeadProfiles:
        return self._profile(self._readings(name))

    def at(self, step: int) -> tuple[HeadProfiles, Roles]:
        """The profiles at a step, and how they differ from the base's."""
        settings = self._scores.experiment.compare
        found = self._at(layout.readings(self._arm.name, step))
        few = 1 if step == self._scores.last else _BETWEEN
        first, second = self._halves
        return found, compare_roles(
            self._base,
            found,
            (first, second),
            self._placebos,
            seed=settings.seed,
            repeats=max(1, settings.permutations // few),
        )

    def changed(self, step: int) -> tuple[str, ...]:
        """Heads whose role changed, for their changes.

        None where no placebo was run: any fine-tune moves profiles beyond what halves of the
        prompts do (on one organism 24 of 32 heads, of which 11 are beyond a placebo's, too).
        """
        return self.at(step)[1].changed if self._placebos else ()

    def rows(self, step: int) -> Iterator[Row]:
        """Rows of the table at one step."""
        scores = self._scores
        profiles, roles = self.at(step)
        came = {move.target: move for move in roles.moves}
        reads = self._reads(step)
        names = role_names(profiles, self._again)
        places = [scores.graph.places[column] for column in scores.graph.head_nodes]
        for index, (change, place) in enumerate(zip(roles.changes, places, strict=True)):
            own, move = profiles.of(change.head), came.get(change.head)
            way, attention = strongest_attention(own)
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
        family = self._scores.experiment.measure.counterfactuals[0]
        mean, halves = (
            self._scores.family(self._arm.name, step, self._task, name, family)
            for name in ("edges", "halves")
        )
        return strongest_reads(self._scores.graph, mean, halves)


def strongest_reads(graph: GraphShape, mean: np.ndarray, halves: np.ndarray) -> dict[str, list]:
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


def role_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``roles``, at every step."""
    rows: list[Row] = []
    for training_run in scores.experiment.training_runs():
        for task in scores.tasks:
            found = RolesOf(scores, training_run, task)
            steps = scores.experiment.steps()
            rows += dated((row for step in steps for row in found.rows(step)), "role")
    return rows


_SINCE = integer("since", "the step since which it holds without a break")
ROLES = Analysis(
    "roles",
    "One row per step, task and head. Scores are between 0 and 1.",
    (
        *TRAINING_RUN,
        STEP,
        TASK,
        NODE,
        *PLACE,
        text("role", "the first that fits: mover, negative mover, induction, and so on, or none"),
        _SINCE,
        text("attends", "the named positions with the most attention (`END>IO`)"),
        real("attention", "its mean"),
        real("copying", "copy score"),
        real("suppressing", "negative copy score"),
        real("previous", "attention to the previous token, on repeated random tokens"),
        real("duplicate", "attention to the earlier occurrence"),
        real("induction", "attention to the token after it"),
        text("q_reads", "source node with the largest share of edge scores into the query"),
        real("q_share", "that share; null if halves of the prompts show noise only"),
        text("k_reads", "likewise into the key"),
        real("k_share", "that share"),
        text("v_reads", "likewise into the value"),
        real("v_share", "that share"),
        real("distance", "of the head profile from the base's"),
        real("noise", "noise floor of the distance"),
        flag("changed", "whether the distance is more than noise"),
        text("features", "what changed most"),
        text("source", "the head whose role in the base appeared here"),
        real("approach", "by how much nearer this head came to it"),
        real("moves_p", "one p-value for all moves of the step and task"),
    ),
    ("scores", "placebo_scores"),
    role_rows,
    "Function",
    shown_in="table-roles",
)
