"""The table ``carriers``: what carries the new ability, by what heads do, not by weights."""

from circuitlapse.analyses.analysis import Analysis, RunData, Section
from circuitlapse.records import layout
from circuitlapse.records.carriers import Carriers
from circuitlapse.records.columns import (
    STEP,
    TRAINING_RUN,
    Row,
    flag,
    integer,
    interval,
    real,
    text,
)


def carrier_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``carriers``."""
    return [
        {**scores.names(training_run), "step": scores.last, **row}
        for training_run in scores.experiment.training_runs()
        for row in Carriers.of_json(
            scores.store.read(layout.carriers(training_run.name)).decode()
        ).rows()
    ]


CARRIERS = Analysis(
    "carriers",
    "One row per measure and set of heads, at the last checkpoint, under the first counterfactual "
    "type. [The glossary](../glossary.md) defines the measures. They decide no label yet.",
    (
        *TRAINING_RUN,
        STEP,
        text(
            "heads",
            "`old` (old-task heads), `half` and `double` as many of them, `without_best`, `early` "
            "(without late writers), `new`, `driving`, `no_heads`, `other_task`; empty for all",
        ),
        text("names", "of these heads"),
        text(
            "measure",
            "`variable_effect`, `undone`, `dependence`, `same_directions`, `sufficiency`, "
            "`necessity`",
        ),
        interval("value", "a ratio"),
        integer("n_random", "random groups of heads that share no head with the old-task heads"),
        real("null_min", "the smallest value of these groups"),
        real("null_max", "the largest value of these groups"),
        flag("above_groups", "the interval lies above all groups; null with fewer than nine"),
        text("not_reported", "why there is no value"),
    ),
    ("carriers",),
    carrier_rows,
    "Function",
    Section(
        "What carries the new ability",
        "Whether the new answer depends on the heads of the old task, whether these heads still "
        "write in the same directions, and what new heads bring, at the last checkpoint. Grey: "
        "random groups of as many other heads, from the smallest to the largest. Measures that "
        "are not reported stand in the table with the reason. They decide no label yet.",
        "activations",
    ),
)
