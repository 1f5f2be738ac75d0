"""How every fine-tune went: loss and accuracy on training, validation and old-task prompts."""

import json
from dataclasses import asdict

from circuitlapse.analyses.analysis import (
    STEP,
    TASK,
    TRAINING_RUN,
    Analysis,
    Section,
    integer,
    interval,
    text,
)
from circuitlapse.analyses.data import Row, RunData
from circuitlapse.records import layout
from circuitlapse.records.figures import Figures, flagged


def training_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``training``: how every fine-tune went, with the traps that show.

    A fine-tune that came to nothing is here as far as it went.
    """
    rows, experiment = [], scores.experiment
    left = experiment.training_runs()
    for training_run in experiment.finetune.training_runs() if not experiment.checkpoints else ():
        name = layout.training(training_run.name)
        if training_run not in left and not scores.store.record(name):
            continue
        written = json.loads(scores.store.read(name))
        for figures, flags in flagged([Figures(**each) for each in written], scores.last):
            row = {**scores.names(training_run), **asdict(figures), "flags": flags}
            rows.append(TRAINING.whole(row))
    return rows


TRAINING = Analysis(
    "training",
    "One row per step and `split`.",
    (
        *TRAINING_RUN,
        STEP,
        text("split", "`train`, `validation` (held-out prompts of the new task) or `old_task`"),
        TASK,
        integer("n", "prompts"),
        interval("loss", "nats per answer token"),
        interval("accuracy", "over the whole vocabulary"),
        interval("end_of_text", "share of prompts after which that token is predicted"),
        text(
            "flags",
            "[training diagnostics](../how-to/finetune.md#training-diagnostics), joined by commas",
        ),
    ),
    ("fine_tunes",),
    training_rows,
    "Time",
    Section(
        "How training went",
        "Loss of the answer, accuracy, and how often the end of the text is predicted instead, "
        "with 95 % intervals; faint lines are other seeds. Marks below: warnings of the training "
        "diagnostics.",
        "training",
    ),
)
