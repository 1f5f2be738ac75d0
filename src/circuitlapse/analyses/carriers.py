"""The tables ``carriers`` and ``bits``, of which a label is made, and the table ``weights``."""

from collections.abc import Iterator, Sequence

import numpy as np

from circuitlapse.analyses.analysis import Analysis, RunData, Section
from circuitlapse.analyses.behaviour import answers
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.records import layout
from circuitlapse.records.answers import ranked_before
from circuitlapse.records.bits_ratio import BitsPass, BitsPasses
from circuitlapse.records.carriers import Carriers
from circuitlapse.records.columns import (
    STEP,
    TRAINING_RUN,
    Row,
    flag,
    integer,
    interval,
    numbers,
    real,
    text,
)
from circuitlapse.stats.intervals import Estimate, mean_interval

LEFT_OUT = "short trainings were left out (compare.bits = false)"


def bits_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``bits``."""
    experiment, rows = scores.experiment, []
    for training_run in experiment.training_runs():
        found = BitsPasses(not_reported=LEFT_OUT)
        if experiment.compare.bits:
            kept = scores.store.read(layout.bits(training_run.recipe))
            found = BitsPasses.model_validate_json(kept)
        names = scores.names(training_run)
        of_run = [*_bits(found), *_ranked(scores, training_run)]
        rows += [{**names, **_NOTHING, **row} for row in of_run]
    return rows


_NOTHING = {"learned": None, "bound": None, "not_reported": ""}


def _bits(found: BitsPasses) -> Iterator[Row]:
    yield _passes("new", found.new, found.not_reported)
    yield _passes("reference", found.reference, found.not_reported)
    ratio = found.ratio()
    yield {
        "which": "ratio",
        "value": ratio.estimate,
        "n": ratio.orders,
        "bound": ratio.lower_bound,
        "not_reported": ratio.not_reported,
    }


def _passes(which: str, passes: Sequence[BitsPass], not_reported: str) -> Row:
    row: Row = {"which": which, "value": None, "n": len(passes), "not_reported": not_reported}
    bits = np.array([each.bits for each in passes])
    if len(bits):
        learned = all(each.learned for each in passes)
        row |= {"learned": learned, "bound": not learned}
    if len(bits) > 1:
        row["value"] = mean_interval(bits)
    elif len(bits):
        row["not_reported"] = f"one order gives no interval: {bits[0]:.0f} bits"
    return row


def _ranked(scores: RunData, training_run: TrainingRun) -> Iterator[Row]:
    """What the base ranked right among the candidates, on the test prompts of the new task."""
    base, tuned = (
        answers(scores.at(training_run.name, step, scores.tasks[1]), "test")
        for step in (0, scores.last)
    )
    found = ranked_before(base, tuned, seed=scores.experiment.compare.seed)
    share, n = found.failures_ranked, len(base.correct)
    why = "" if share else "the base fails on no prompt"
    yield {"which": "right_before", "value": share, "n": found.failures, "not_reported": why}
    share = found.gain_ranked
    why = "" if share else "the accuracy over the vocabulary does not rise"
    yield {"which": "gain_on_right", "value": share, "n": n, "not_reported": why}


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
    "type. [The glossary](../glossary.md) defines the measures.",
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
        numbers("groups", "the same of random groups of heads without any old-task head"),
        integer("n_random", "number of these groups"),
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
        "are not reported stand in the table with the reason.",
        "activations",
    ),
)

BITS = Analysis(
    "bits",
    "Five rows per fine-tune. Bits do not depend on its seed: one pass of its recipe from the base "
    "in batches of eight, no prompt twice, until the task is learned.",
    (
        *TRAINING_RUN,
        text(
            "which",
            "bits of the `new` and of the `reference` task, their `ratio` (bits_ratio); "
            "`right_before`: share of the prompts the base fails on whose right candidate it "
            "prefers; `gain_on_right`: share of the rise of accuracy that is on such "
            "prompts",
        ),
        interval("value", "bits, a ratio, or a share"),
        integer("n", "orders of the prompts; of the last two rows, prompts"),
        flag("learned", "whether every pass ended with the task learned; of bits only"),
        flag("bound", "the value is a lower bound, because a pass ended before"),
        text("not_reported", "why there is no value"),
    ),
    ("bits", "scores"),
    bits_rows,
    "Behaviour",
    Section(
        "Was it there?",
        "Bits that the new task costs, compared with the bits of the plainest rule of the same "
        "format (the reference task), each learned from the base in one pass over different "
        "prompts. Dots: mean over orders of the prompts, with its 95 % interval.",
        "behaviour",
    ),
)


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
        for row in scores.rows(layout.weights(training_run.name))
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
