"""The table ``weights``: where weights changed, as a description."""

import json

from circuitlapse.analyses.analysis import Analysis, RunData, Section
from circuitlapse.records import layout
from circuitlapse.records.columns import STEP, TRAINING_RUN, Row, integer, interval, text
from circuitlapse.stats.intervals import Estimate


def weight_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``weights``."""
    return [
        {
            **scores.names(training_run),
            "step": scores.last,
            **row,
            **{name: Estimate(**row[name]) for name in ("put_back", "grafted")},
        }
        for training_run in scores.experiment.training_runs()
        for row in json.loads(scores.store.read(layout.weights(training_run.name)))
    ]


WEIGHTS = Analysis(
    "weights",
    "Where weights changed: one row per part, at the last checkpoint. No share is called a cause.",
    (
        *TRAINING_RUN,
        STEP,
        text(
            "part",
            "`old_heads`, `new_heads`, `other_heads`, `mlps`, `shared` (embeddings, norms, output "
            "biases), or a layer",
        ),
        integer("n_parameters", "of the part"),
        interval("put_back", "what M1 loses with the base's weights of the part, in logits"),
        interval("grafted", "how much M0 improves with the tuned weights of the part, in logits"),
    ),
    ("weights",),
    weight_rows,
    "Weights",
    Section(
        "Where weights changed",
        "What the fine-tuned model loses if the weights of one part are put back to the base's, "
        "and how much the base improves with the fine-tuned weights of that part alone, in logits "
        "with 95 % intervals. Parts are groups of components and layers. No share is called a "
        "cause.",
        "weights",
    ),
)
