"""Evidence sentences on behaviour, overlap and head changes, with their tables and rows."""

from collections import Counter
from collections.abc import Iterator, Sequence

from circuitlapse.heads.head_changes import CATEGORIES, HeadChanges
from circuitlapse.heads.overlap import Overlap
from circuitlapse.records.documents import Evidence, Group
from circuitlapse.verdict.preconditions import Context, Findings, logits, percent

GROUP_NAMES: dict[Group, str] = {
    "old_heads": "old-task heads",
    "recruited_heads": "recruited heads",
    "other_heads": "other heads",
    "mlps": "MLPs",
    "shared": "embeddings, normalisations and output biases",
}

# Pearson's depends on the few largest components, the ranks' on all: each alone would mislead.
_CORRELATIONS = {"pearson": "correlation", "spearman": "rank correlation"}


def statements(
    context: Context,
    findings: Findings,
    overlaps: Sequence[Overlap],
    changes: HeadChanges | None,
) -> list[Evidence]:
    """Return the sentences on behaviour, overlap and head changes."""
    return [
        *_behaviour(context, findings),
        *_overlap(context, overlaps),
        *(_head_changes(context, changes) if changes is not None else ()),
    ]


def _evidence(context: Context, statement: str, table: str, **where: str | int) -> Evidence:
    return Evidence(statement=statement, table=table, where=context.where(**where))


def _behaviour(context: Context, findings: Findings) -> Iterator[Evidence]:
    old, new, step = context.old, context.new, context.step
    for task, model, at, estimate, split, where in (
        (old, "The base", 0, findings.base_old, "test", ""),
        (new, "The base", 0, findings.base_new, "test", ""),
        (new, "The tuned model", step, findings.tuned_new, "test", ""),
        (
            new,
            "The tuned model",
            step,
            findings.tuned_new_templates,
            "test_templates",
            " on held-out templates",
        ),
        (old, "The tuned model", step, findings.tuned_old, "test", ""),
    ):
        yield _evidence(
            context,
            f"{model} solves {task}{where} with a candidate accuracy of {percent(estimate)}.",
            "behaviour",
            step=at,
            task=task,
            split=split,
        )
    if findings.placebo_gain is not None and context.placebo is not None:
        yield _evidence(
            context,
            f"The placebo changed the base's logit difference on {new} by "
            f"{logits(findings.placebo_gain)}.",
            "placebo",
            placebo=context.placebo,
            step=step,
            task=new,
            split="test",
        )


def _overlap(context: Context, overlaps: Sequence[Overlap]) -> Iterator[Evidence]:
    left = f"base:{context.old}"
    wanted = [{left, f"tuned:{task}"} for task in (context.old, context.new)]
    for row in overlaps:
        if {row.left, row.right} not in wanted or row.measure not in _CORRELATIONS:
            continue
        yield _evidence(
            context,
            f"Importances of {row.unit} in {row.left} and {row.right} have {_correlation(row)}.",
            "overlap",
            step=context.step,
            counterfactual=context.counterfactual,
            unit=row.unit,
            left=row.left,
            right=row.right,
            measure=row.measure,
        )


def _correlation(row: Overlap) -> str:
    name = _CORRELATIONS[row.measure]
    if row.value is None:
        return f"no {name}: {row.not_reported}"
    text = f"a {name} of {row.value:.2f}"
    if row.interval is not None:
        text = f"a {name} of {row.interval.text()}"
    compared = []
    if row.ceiling is not None:
        compared.append(f"noise ceiling {row.ceiling:.2f}")
    if row.null_mean is not None:
        compared.append(
            f"permutation null {row.null_mean:.2f} "
            f"[{row.null_low:.2f}, {row.null_high:.2f}] (p = {row.p_value:.3f})"
        )
    return "; ".join([text, ", ".join(compared)]) if compared else text


def _head_changes(context: Context, changes: HeadChanges) -> Iterator[Evidence]:
    where: dict[str, str | int] = {"step": context.step, "counterfactual": context.counterfactual}
    counts = Counter(row.category for row in changes.rows)
    listed = ", ".join(
        f"{counts[category]} {category}" for category in CATEGORIES if counts[category]
    )
    yield _evidence(
        context,
        f"Of {len(changes.rows)} heads: {listed} (used: an effect of at least "
        f"{changes.threshold:.2f} logits).",
        "head_changes",
        **where,
    )
    yield _evidence(
        context,
        f"The base uses {len(changes.old_heads)} heads on {context.old}; by the same test the "
        f"tuned model uses {len(changes.still_used)} of them.",
        "head_changes",
        **where,
    )
