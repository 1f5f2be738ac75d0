"""Evidence sentences on behaviour and on a second circuit, with their tables and rows."""

from collections.abc import Iterator

from circuitlapse.records.documents import Evidence
from circuitlapse.verdict.label_words import second_circuit
from circuitlapse.verdict.measures import Measures
from circuitlapse.verdict.preconditions import Context, Findings, logits, percent


def statements(context: Context, findings: Findings, measures: Measures) -> list[Evidence]:
    """Return the sentences on behaviour, and whether there is a second circuit."""
    again = {"step": context.step, "measure": "undone"}
    second = _evidence(context, second_circuit(measures), "carriers", **again)
    return [*_behaviour(context, findings), second]


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
