"""Evidence sentences, each from rows of a result table of one fine-tune.

Without rows there is no sentence, so that no sentence names a row that does not exist.
"""

from collections.abc import Iterator, Mapping, Sequence
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


def graft_sentences(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    """Of the table ``grafts``: output scales, then shares, then QK and OV weights."""
    yield from _rescaled(context, rows)
    yield from _shares(context, rows)
    yield from _parts(context, rows)


def _pick(rows: Sequence[Row], **where: str | int) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def _evidence(context: Context, statement: str, table: str, **where: str | int) -> Evidence:
    return Evidence(statement=statement, table=table, where={**context.seeds, **where})


def _of_improvement(row: Row) -> str:
    """A share of the improvement, or the part in logits if there is no share."""
    share, improvement = Estimate.of(row, "share"), Estimate.of(row, "improvement")
    if share is not None:
        return f"{percent(share)} of the improvement"
    return "nothing" if improvement is None else f"{logits(improvement)} (no share is given)"


def _baseline(row: Row) -> str:
    """Values of size-matched random heads, in the row's unit."""
    if row["n_random"] is None:
        return ""
    whole = row["improvement"] / row["share"] if row["share"] else None
    mean, low, high = (row[f"null_{end}"] for end in ("mean", "min", "max"))
    if whole is None:
        shown = f"{mean:.2f} logits, from {low:.2f} to {high:.2f}"
    else:
        part = [round(100 * each / whole) for each in (mean, low, high)]
        shown = f"{part[0]} %, from {part[1]} to {part[2]}"
    return f"; {row['n_random']} size-matched random groups, {shown} (p = {row['p_value']:.2f})"


def _rescaled(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    for group, text in (
        ("output_scales", "Rescaling the base's own heads and MLPs reaches"),
        ("non_negative_scales", "Rescaling them without negative scales reaches"),
    ):
        where = {"step": context.step, "origin": "rescaled_base", "group": group}
        for row in _pick(rows, **where):
            yield _evidence(context, f"{text} {_of_improvement(row)}.", "grafts", **where)


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
            one, other = (
                f"{_of_improvement(by[quantity])}{_baseline(by[quantity])}"
                for quantity in ("add_one_in", "leave_one_out")
            )
            ends = f" (add-one-in {one}; leave-one-out {other})"
        yield _evidence(
            context,
            f"Grafted into the rescaled base, the tuned weights of the {name} "
            f"({row['n_parameters']:,} parameters) bring {_of_improvement(row)} by their Shapley "
            f"value{ends}.",
            "grafts",
            **where,
        )


def _parts(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
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
                    f"Grafted into the base, the tuned {weights} of the {_NAMES[group]} alone "
                    f"bring {_of_improvement(row)}{_baseline(row)}.",
                    "grafts",
                    **where,
                )


def mediation_sentences(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    """Of the table ``mediation``."""
    frozen = "frozen to their base activations"
    for group, text in (
        ("no heads", f"With all heads {frozen}, "),
        ("old_heads", f"With all heads except the old-task heads {frozen}, "),
        ("recruited_heads", f"With all heads except the recruited heads {frozen}, "),
    ):
        where = {"step": context.step, "group": group}
        for row in _pick(rows, **where):
            yield _evidence(
                context,
                f"{text}{_of_improvement(row)} remains{_baseline(row)}.",
                "mediation",
                **where,
            )


def crosspatch_sentences(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    """Of the table ``crosspatch``."""
    for group in _JUDGED:
        for direction, text in (
            (
                "tuned_into_base",
                "Activations of the {} patched from the tuned model into the base bring",
            ),
            (
                "base_into_tuned",
                "Activations of the {} patched from the base into the tuned model remove",
            ),
        ):
            where = {"step": context.step, "group": group, "direction": direction}
            everywhere = _pick(rows, **where, position="everywhere")
            named = [row for row in _pick(rows, **where) if row["position"] != "everywhere"]
            for row in everywhere:
                yield _evidence(
                    context,
                    f"{text.format(_NAMES[group])} {_of_improvement(row)}{_baseline(row)}.",
                    "crosspatch",
                    **where,
                    position="everywhere",
                )
            if named:
                most = max(named, key=lambda row: row["improvement"])
                yield _evidence(
                    context,
                    f"The named position with the largest effect is {most['position']}: "
                    f"{_of_improvement(most)}{_baseline(most)}.",
                    "crosspatch",
                    **where,
                    position=most["position"],
                )


def role_sentences(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    """Of the table ``roles``."""
    for task in (context.old, context.new):
        where = {"step": context.step, "task": task}
        found = _pick(rows, **where)
        if not found:
            continue
        changed = [row["node"] for row in found if row["changed"]]
        text = (
            f"On {task}, the profiles of {len(changed)} of {len(found)} heads differ from the base"
        )
        moves = [row for row in found if row["source"]]
        p = moves[0]["moves_p"] if moves else None
        if p is not None and p <= LARGEST_P:
            listed = ", ".join(f"{row['source']} → {row['node']}" for row in moves)
            text += f"; roles moved between heads ({listed}; p = {p:.3f})"
        elif p is not None:
            text += f"; a move of roles between heads is not significant (p = {p:.3f})"
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


def dynamics_sentences(context: Context, rows: Sequence[Row]) -> Iterator[Evidence]:
    """Of the table ``dynamics``."""
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
