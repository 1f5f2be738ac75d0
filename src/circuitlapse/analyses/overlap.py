"""From per-prompt arrays to the comparison of base and checkpoints: overlaps and changes.

Overlaps of the base with placebos and with an unrelated task.

Only node importances are compared, exact patching effects; edges are not scored for these.
"""

from circuitlapse.analyses.analysis import Analysis, RunData
from circuitlapse.analyses.dynamics import exact_steps
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.heads.overlap import (
    EdgeImportance,
    NodeImportance,
    Overlap,
    edge_overlaps,
    node_overlaps,
)
from circuitlapse.records.columns import (
    COUNTERFACTUAL,
    STEP,
    TRAINING_RUN,
    Row,
    interval,
    real,
    text,
)

# Null and resamples are drawn less often for the checkpoints before the last: there are many.
_BETWEEN = 5


def node_overlaps_at(
    scores: RunData, training_run: TrainingRun, family: str, step: int
) -> list[Overlap]:
    """Overlaps of node importances between the base and one checkpoint, on both tasks."""
    settings = scores.experiment.compare
    few = 1 if step == scores.last else _BETWEEN
    conditions = [
        NodeImportance(model, task, scores.family(training_run.name, at, task, "effects", family))
        for model, at in (("base", 0), ("tuned", step))
        for task in scores.tasks
    ]
    return node_overlaps(
        conditions,
        scores.graph.nodes,
        seed=settings.seed,
        permutations=max(1, settings.permutations // few),
        repeats=max(20, settings.bootstrap // few),
    )


def edge_overlaps_at(
    scores: RunData, training_run: TrainingRun, family: str, step: int
) -> list[Overlap]:
    """Overlaps of edge importances between the base and one checkpoint, on both tasks."""
    graph = scores.graph
    edges = []
    for model, of_model in (("base", 0), ("tuned", step)):
        for task in scores.tasks:
            mean = scores.family(training_run.name, of_model, task, "edges", family)
            edges.append(EdgeImportance(model, task, mean))
    return edge_overlaps(edges, graph.writers, graph.readers, graph.edge_mask)


def overlap_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``overlap``, at every step that has what they need."""
    rows = []
    exact = exact_steps(scores.experiment)
    for training_run in scores.experiment.training_runs():
        for family in scores.experiment.measure.counterfactuals:
            names = {**scores.names(training_run), "counterfactual": family}
            for step in scores.experiment.steps():
                units = (*([node_overlaps_at] if step in exact else []), edge_overlaps_at)
                for overlaps_at in units:
                    found = overlaps_at(scores, training_run, family, step)
                    rows += [{**names, "step": step, **overlap_row("", each)} for each in found]
            names["step"] = scores.last
            for other, found in overlaps_with_controls(scores, training_run, family).items():
                rows += [{**names, **overlap_row(other, each)} for each in found]
    return rows


def overlap_row(compared_with: str, found: Overlap) -> Row:
    """One overlap as a row, without the columns that name the run."""
    row = {"compared_with": compared_with, **vars(found)}
    interval = row.pop("interval")
    return {**row, "value": interval or found.value}


def overlaps_with_controls(
    scores: RunData, training_run: TrainingRun, family: str
) -> dict[str, list[Overlap]]:
    """Overlaps of the base on the old task with everything that is not the fine-tune.

    The unrelated task, under the first counterfactual of its own, is compared with both ends of the
    question: base on the old task, and tuned model on the new one.
    """
    experiment, (old, new) = scores.experiment, scores.tasks

    def measured(model: str, name: str, step: int, task: str, of: str = family) -> NodeImportance:
        return NodeImportance(model, task, scores.family(name, step, task, "effects", of))

    base = measured("base", training_run.name, 0, old)
    found = {}
    placebos = [
        measured(placebo.label, placebo.name, scores.last, task)
        for placebo in experiment.placebos(training_run.recipe)
        for task in (old, new)
    ]
    if placebos:
        found["placebo"] = _compared(scores, [base], placebos)
    task = experiment.controls.unrelated
    if task and training_run in experiment.control_runs():
        tuned = measured("tuned", training_run.name, scores.last, new)
        own = next(iter(scores.families(task)))
        ends = (("base", 0), ("tuned", scores.last))
        other = [measured(model, training_run.name, step, task, own) for model, step in ends]
        found["unrelated_task"] = _compared(scores, [base, tuned], other)
    return found


def _compared(
    scores: RunData, left: list[NodeImportance], right: list[NodeImportance]
) -> list[Overlap]:
    settings = scores.experiment.compare
    pairs = [(i, len(left) + j) for i in range(len(left)) for j in range(len(right))]
    return node_overlaps(
        [*left, *right],
        scores.graph.nodes,
        seed=settings.seed,
        pairs=pairs,
        permutations=settings.permutations,
        repeats=settings.bootstrap,
    )


OVERLAP = Analysis(
    "overlap",
    "Similarity of two importance vectors: one row per step, counterfactual, unit, measure and "
    "pair. `left` and `right` are model:task, such as `base:old`.",
    (
        *TRAINING_RUN,
        STEP,
        COUNTERFACTUAL,
        text("unit", "`nodes` or `edges`"),
        text("compared_with", "empty for base and tuned model; else `unrelated_task` or `placebo`"),
        text("left", "model and task"),
        text("right", "what it is compared with"),
        text("measure", "`pearson`, `spearman` or `weighted_jaccard`"),
        interval("value", "the similarity; no interval for edges"),
        real("null_mean", "heads permuted within their layers: the mean"),
        real("null_low", "2.5 % quantile"),
        real("null_high", "97.5 % quantile"),
        real("p_value", "share of permutations that reach the value"),
        text("not_reported", "why there is no value"),
    ),
    ("scores", "placebo_scores"),
    overlap_rows,
    "Circuit structure",
    shown_in="overlap",
)
