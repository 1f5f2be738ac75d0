"""The tables ``grafts``, ``gains``, ``mediation`` and ``crosspatch``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from circuitlapse.analyses.data import Row, RunData, spread
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.graph import GraphShape
from circuitlapse.records.arrays import load_about, load_arrays
from circuitlapse.records.layout import grafts, grafts_at, swapped_rows
from circuitlapse.stats.random_baseline import RandomBaseline, compare_to_random
from circuitlapse.stats.ratios import divide, logit_rounding
from circuitlapse.verdict.causes import ELSEWHERE
from circuitlapse.verdict.evidence import CauseEvidence
from circuitlapse.verdict.shares import contribution, gain_shares

RandomGrafts = Mapping[tuple[str, str, str], Sequence[float]]
"""Gains of random groups by where they were grafted, beside which group, and first or last."""

_GROUPS = ("old_heads", "recruited_heads", "other_heads")


def read_evidence(content: bytes) -> CauseEvidence:
    """Read what was measured of one fine-tune's causes."""
    return CauseEvidence.of_arrays(load_arrays(content), load_about(content))


def evidence_of(scores: RunData, arm: TrainingRun) -> CauseEvidence:
    """What was measured of one fine-tune's causes, with its hash checked."""
    return read_evidence(scores.store.read(grafts(arm.name)))


def head_groups(found: CauseEvidence, graph: GraphShape) -> dict[str, tuple[str, ...]]:
    """The heads of each group of heads that has any."""
    old, recruited = found.choice.old_heads, found.choice.recruited_heads
    others = [head for head in graph.heads if head not in {*old, *recruited}]
    groups = dict(zip(_GROUPS, (old, recruited, tuple(others)), strict=True))
    return {group: heads for group, heads in groups.items() if heads}


def random_columns(random: RandomBaseline | None) -> Row:
    """The columns of the random groups beside a group; nulls where there are none."""
    if random is None:
        return dict.fromkeys(("n_random", "null_mean", "null_low", "null_high", "p_value"))
    return {
        "n_random": random.n,
        "null_mean": random.mean,
        "null_low": random.low,
        "null_high": random.high,
        "p_value": random.p_value,
    }


def graft_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``grafts``."""
    rows = []
    for arm in scores.experiment.arms():
        found = evidence_of(scores, arm)
        heads = {
            group: ", ".join(members) for group, members in head_groups(found, scores.graph).items()
        }
        random = {
            (row["origin"], row["group"], row["quantity"]): row["gains"]
            for row in scores.rows(swapped_rows(arm.name, "random_grafts"))
        }
        of_arm = [
            *_of_the_base(scores, arm, found, random),
            *_of_the_gained(scores, found, random),
            *scores.rows(swapped_rows(arm.name, "head_grafts")),
        ]
        rows += [
            {**scores.names(arm), "step": scores.last, "heads": heads.get(row["group"], ""), **row}
            for row in of_arm
        ]
    return rows


def _of_the_base(
    scores: RunData, arm: TrainingRun, found: CauseEvidence, random: RandomGrafts
) -> Iterator[Row]:
    """What the groups bring to the base, at the last step and between."""
    settings = scores.experiment.compare
    for step in (*graft_steps(scores.experiment), scores.last):
        path = grafts(arm.name) if step == scores.last else grafts_at(arm.name, step)
        values = load_arrays(scores.store.read(path))["values"]
        shares = gain_shares(
            values, found.n_parameters, seed=settings.seed, repeats=settings.bootstrap
        )
        for row in shares.rows:
            gains = random.get(("base", row.group, row.quantity), ()) if step == scores.last else ()
            columns = {"step": step, "origin": "base", "part": "whole", **asdict(row)}
            yield _refused(found, {**columns, **random_columns(compare_to_random(row.gain, gains))})


def _of_the_gained(scores: RunData, found: CauseEvidence, random: RandomGrafts) -> Iterator[Row]:
    """What the fitted gains bring to the base, and then the groups to the gained base."""
    base, tuned = (each.logit_diff.astype(np.float64) for each in (found.base, found.tuned))
    columns: dict[tuple[str, str], np.ndarray] = {
        ("gains", "first_in"): found.hybrids[0] - base,
        ("gains_non_negative", "first_in"): found.non_negative - base,
    }
    sizes: dict[str, int | None] = {**found.n_parameters}
    for quantity in ("first_in", "last_in", "shapley"):
        for group in found.n_parameters:
            columns[group, quantity] = contribution(found.hybrids, quantity, group)
    elsewhere = [columns[group, "shapley"] for group in ELSEWHERE]
    columns["elsewhere", "shapley"] = np.sum(elsewhere, axis=0)
    sizes["elsewhere"] = sum(found.n_parameters[group] for group in ELSEWHERE)
    sizes["gains"] = sizes["gains_non_negative"] = len(found.gains)
    settings = scores.experiment.compare
    # The same resamples and rounding as in compare.causes: one share has one interval.
    divided = divide(
        np.stack(list(columns.values()), axis=1),
        tuned - base,
        seed=[settings.seed, 0],
        repeats=settings.bootstrap,
        rounding=logit_rounding(found.hybrids),
    )
    judged: dict[tuple[str, str], RandomBaseline | None] = {
        (group, "first_in"): others for group, others in found.support.grafts.items()
    }
    for index, (group, quantity) in enumerate(columns):
        gain = divided.parts[index]
        others = compare_to_random(gain.value, random.get(("gained", group, quantity), ()))
        yield _refused(
            found,
            {
                "origin": "gained",
                "group": group,
                "part": "whole",
                "quantity": quantity,
                "n_parameters": sizes[group],
                **spread("gain", gain),
                **spread("share", divided.share(index)),
                **random_columns(judged.get((group, quantity), others)),
            },
        )


def _refused(found: CauseEvidence, row: Row) -> Row:
    """Take the share from groups of heads where no heads could be told apart."""
    if found.choice.refused and row["group"] in (*_GROUPS, "elsewhere"):
        return {**row, **spread("share", None)}
    return row


def scale_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``gains``."""
    rows = []
    for arm in scores.experiment.arms():
        for node, gain in evidence_of(scores, arm).gains.items():
            place = scores.graph.places[scores.graph.nodes.index(node)]
            names = {**scores.names(arm), "step": scores.last, "node": node}
            rows.append({**names, "layer": place.layer, "head": place.head, "gain": gain})
    return rows


def swapped(name: str) -> Callable[[RunData], list[Row]]:
    """Make the function that gathers the rows of ``mediation`` or ``crosspatch``."""

    def rows(scores: RunData) -> list[Row]:
        return [
            {**scores.names(arm), "step": scores.last, **row}
            for arm in scores.experiment.arms()
            for row in scores.rows(swapped_rows(arm.name, name))
        ]

    return rows


def graft_steps(experiment: Experiment) -> list[int]:
    """Checkpoints before the last at which the groups are grafted, evenly spread."""
    between = experiment.steps()[1:-1]
    n, wanted = len(between), min(experiment.compare.graft_steps, len(between))
    return [between[(2 * place + 1) * n // (2 * wanted)] for place in range(wanted)]
