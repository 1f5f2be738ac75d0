"""Sentences worded from the rows of the result tables that they point to.

Each function is given the rows of one fine-tune and says nothing where there are none, so that no
sentence can name a row that does not exist.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from circuitlapse.records.documents import Evidence
from circuitlapse.stats.intervals import Estimate
from circuitlapse.verdict.preconditions import Context, logits, percent
from circuitlapse.verdict.statements import GROUP_NAMES
from circuitlapse.verdict.thresholds import LARGEST_P

Row = Mapping[str, Any]
_NAMES: dict[str, str] = {
    **GROUP_NAMES,
    "elsewhere": "other heads, MLPs, embeddings, normalisations and output biases",
}
_PARTS = {"qk": "query and key weights", "ov": "value and output weights"}
_JUDGED = ("old_heads", "recruited_heads")


@dataclass(frozen=True)
class Tables:
    """Rows of one fine-tune by the table that they stand in."""

    grafts: Sequence[Row] = ()
    mediation: Sequence[Row] = ()
    crosspatch: Sequence[Row] = ()
    roles: Sequence[Row] = ()
    dynamics: Sequence[Row] = ()


def evidence_sentences(context: Context, tables: Tables) -> list[Evidence]:
    """Word all of them, from function over dynamics to causes."""
    return [
        *_roles(context, tables.roles),
        *_dynamics(context, tables.dynamics),
        *_gains(context, tables.grafts),
        *_shares(context, tables.grafts),
        *_circuits(context, tables.grafts),
        *_mediation(context, tables.mediation),
        *_crosspatch(context, tables.crosspatch),
    ]


def _pick(rows: Sequence[Row], **where: str | int) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def _evidence(context: Context, statement: str, table: str, **where: str | int) -> Evidence:
    return Evidence(statement=statement, table=table, where={**context.seeds, **where})


def _of_gain(row: Row) -> str:
    """A share of the improvement, or the part in logits where no share is given."""
    share, improvement = Estimate.of(row, "share"), Estimate.of(row, "improvement")
    if share is not None:
        return f"{percent(share)} of the improvement"
    return "nothing" if improvement is None else f"{logits(improvement)} (no share is given)"


def _beside(row: Row) -> str:
    """What random groups reach, in the row's own unit."""
    if row["n_random"] is None:
        return ""
    whole = row["improvement"] / row["share"] if row["share"] else None
    mean, low, high = (row[f"null_{end}"] for end in ("mean", "min", "max"))
    if whole is None:
        shown = f"{mean:.2f} logits, from {low:.2f} to {high:.2f}"
    else:
        part = [round(100 * each / whole) for each in (mean, low, high)]
        shown = f"{part[0]} %, from {part[1]} to {part[2]}"
    return f"; {row['n_random']} random groups of as many heads, {shown} (p = {row['p_value']:.2f})"


def _gains(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    for group, text in (
        (
            "output_scales",
            "One scale for each head and MLP of the base, fitted to what is read of the same "
            "component in the tuned model, brings",
        ),
        ("non_negative_scales", "Scales that cannot turn a component round bring"),
    ):
        where = {"step": context.step, "origin": "rescaled_base", "group": group}
        for row in _pick(rows, **where):
            yield _evidence(context, f"{text} {_of_gain(row)}.", "grafts", **where)


def _shares(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    for group in (*_JUDGED, "elsewhere"):
        where = {"step": context.step, "origin": "rescaled_base", "group": group, "part": "whole"}
        by = {row["quantity"]: row for row in _pick(rows, **where)}
        if "shapley" not in by:
            continue
        row, name = by["shapley"], _NAMES[group]
        if group != "elsewhere" and not row["n_parameters"]:
            yield _evidence(context, f"There are no {name}.", "grafts", **where)
            continue
        ends = ""
        if "add_one_in" in by and "leave_one_out" in by:
            ends = f" (first in {_of_gain(by['add_one_in'])}{_beside(by['add_one_in'])}; last in "
            ends += f"{_of_gain(by['leave_one_out'])}{_beside(by['leave_one_out'])})"
        yield _evidence(
            context,
            f"From the rescaled base on, the tuned weights of the {name} ({row['n_parameters']:,} "
            f"parameters) bring {_of_gain(row)} by their Shapley value{ends}.",
            "grafts",
            **where,
        )


def _circuits(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    for group in _JUDGED:
        for part, weights in _PARTS.items():
            where = {
                "step": context.step,
                "origin": "base",
                "group": group,
                "part": part,
                "quantity": "add_one_in",
            }
            for row in _pick(rows, **where):
                yield _evidence(
                    context,
                    f"The tuned {weights} of the {_NAMES[group]} alone bring the base "
                    f"{_of_gain(row)}{_beside(row)}.",
                    "grafts",
                    **where,
                )


def _mediation(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    held = "held at what they do in the base"
    for group, text in (
        ("no heads", f"With all heads {held}, "),
        ("old_heads", f"With all heads but the old circuit's {held}, "),
        ("recruited_heads", f"With all heads but the recruited ones {held}, "),
    ):
        where = {"step": context.step, "group": group}
        for row in _pick(rows, **where):
            yield _evidence(
                context, f"{text}{_of_gain(row)} is left{_beside(row)}.", "mediation", **where
            )


def _crosspatch(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    for group in _JUDGED:
        for direction, text in (
            ("tuned_into_base", "The tuned model's activations of the {} put into the base bring"),
            (
                "base_into_tuned",
                "The base's activations of the {} put into the tuned model take away",
            ),
        ):
            where = {"step": context.step, "group": group, "direction": direction}
            everywhere = _pick(rows, **where, position="everywhere")
            named = [row for row in _pick(rows, **where) if row["position"] != "everywhere"]
            for row in everywhere:
                yield _evidence(
                    context,
                    f"{text.format(_NAMES[group])} {_of_gain(row)}{_beside(row)}.",
                    "crosspatch",
                    **where,
                    position="everywhere",
                )
            if named:
                most = max(named, key=lambda row: row["improvement"])
                yield _evidence(
                    context,
                    f"At one named position they do most at {most['position']}: "
                    f"{_of_gain(most)}{_beside(most)}.",
                    "crosspatch",
                    **where,
                    position=most["position"],
                )


def _roles(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    for task in (context.old, context.new):
        where = {"step": context.step, "task": task}
        found = _pick(rows, **where)
        if not found:
            continue
        changed = [row["node"] for row in found if row["changed"]]
        text = f"On {task}, {len(changed)} of {len(found)} heads do something else than in the base"
        moves = [row for row in found if row["source"]]
        p = moves[0]["moves_p"] if moves else None
        if p is not None and p <= LARGEST_P:
            listed = ", ".join(f"{row['source']} → {row['node']}" for row in moves)
            text += f"; roles left heads and appeared in others ({listed}; p = {p:.3f})"
        elif p is not None:
            text += f"; that roles moved from head to head is not shown (p = {p:.3f})"
        yield _evidence(context, f"{text}.", "roles", **where)
        movers = _pick(found, role="mover")
        if movers:
            base = {row["node"] for row in _pick(rows, step=0, task=task, role="mover")}
            listed = ", ".join(
                row["node"] + ("" if row["node"] in base else " (new)") for row in movers
            )
            yield _evidence(
                context,
                f"On {task}, the heads that attend from the last token to a name and copy it are "
                f"{listed}.",
                "roles",
                **where,
                role="mover",
            )


def _dynamics(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    for task in (context.old, context.new):
        where = {"step": context.step, "task": task, "kind": "behaviour"}
        for row in _pick(rows, **where):
            change = Estimate.of(row, "change")
            text = f"The logit difference on {task} changes"
            if change is not None:
                text += f" by {logits(change)}"
            if row["step_of_90"] is not None:
                text += f"; 90 % of the change is reached at step {row['step_of_90']:.0f}"
            yield _evidence(context, f"{text}.", "dynamics", **where)
        where = {
            "step": context.step,
            "task": task,
            "counterfactual": context.counterfactual,
            "kind": "head",
        }
        heads = _pick(rows, **where)
        if heads:
            steps = [row["step_of_90"] for row in heads if row["step_of_90"] is not None]
            sign_changed = [row["node"] for row in heads if row["sign_changed"]]
            text = f"On {task}, the effects of {len(steps)} of {len(heads)} heads change"
            if steps:
                text += f"; half of these reach 90 % of their change by step {median(steps):.0f}"
                text += f" (from {min(steps):.0f} to {max(steps):.0f})"
            text += f"; the sign changes in {', '.join(sign_changed) or 'none'}"
            yield _evidence(context, f"{text}.", "dynamics", **where)
