"""The tables ``grafts``, ``output_scales``, ``mediation`` and ``crosspatch``."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from circuitlapse.analyses.analysis import Analysis, RunData, Section
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.graph import GraphShape
from circuitlapse.records.arrays import load_about, load_arrays
from circuitlapse.records.columns import (
    NODE,
    PLACE,
    RANDOM,
    STEP,
    TRAINING_RUN,
    Row,
    integer,
    interval,
    real,
    text,
)
from circuitlapse.records.layout import grafts, grafts_at, swapped_rows
from circuitlapse.stats.random_baseline import RandomBaseline, compare_to_random
from circuitlapse.stats.ratios import divide, logit_rounding
from circuitlapse.verdict.causes import ELSEWHERE, contribution, gain_shares
from circuitlapse.verdict.evidence import CauseEvidence

RandomGrafts = Mapping[tuple[str, str, str], Sequence[float]]
"""Improvements of random groups, by origin, group and quantity."""

_GROUPS = ("old_heads", "recruited_heads", "other_heads")


def read_evidence(content: bytes) -> CauseEvidence:
    """Read what was measured of one fine-tune's causes."""
    return CauseEvidence.of_arrays(load_arrays(content), load_about(content))


def evidence_of(scores: RunData, training_run: TrainingRun) -> CauseEvidence:
    """What was measured of one fine-tune's causes, with its hash checked."""
    return read_evidence(scores.store.read(grafts(training_run.name)))


def head_groups(found: CauseEvidence, graph: GraphShape) -> dict[str, tuple[str, ...]]:
    """The heads of each group of heads that has any."""
    old, recruited = found.choice.old_heads, found.choice.recruited_heads
    others = [head for head in graph.heads if head not in {*old, *recruited}]
    groups = dict(zip(_GROUPS, (old, recruited, tuple(others)), strict=True))
    return {group: heads for group, heads in groups.items() if heads}


def graft_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``grafts``."""
    rows = []
    for training_run in scores.experiment.training_runs():
        found = evidence_of(scores, training_run)
        heads = {
            group: ", ".join(members) for group, members in head_groups(found, scores.graph).items()
        }
        random = {
            (row["origin"], row["group"], row["quantity"]): row["improvements"]
            for row in scores.rows(swapped_rows(training_run.name, "random_grafts"))
        }
        of_run = [
            *_of_the_base(scores, training_run, found, random),
            *_of_the_rescaled(scores, found, random),
            *map(GRAFTS.whole, scores.rows(swapped_rows(training_run.name, "head_grafts"))),
        ]
        rows += [
            {
                **scores.names(training_run),
                "step": scores.last,
                "heads": heads.get(row["group"], ""),
                **row,
            }
            for row in of_run
        ]
    return rows


def _of_the_base(
    scores: RunData, training_run: TrainingRun, found: CauseEvidence, random: RandomGrafts
) -> Iterator[Row]:
    """What the groups bring to the base, at the last step and between."""
    settings = scores.experiment.compare
    for step in (*graft_checkpoints(scores.experiment), scores.last):
        path = (
            grafts(training_run.name) if step == scores.last else grafts_at(training_run.name, step)
        )
        values = load_arrays(scores.store.read(path))["values"]
        shares = gain_shares(
            values, found.n_parameters, seed=settings.seed, repeats=settings.bootstrap
        )
        for row in shares.rows:
            improvements = (
                random.get(("base", row.group, row.quantity), ()) if step == scores.last else ()
            )
            others = compare_to_random(row.improvement.value, improvements)
            columns = {"step": step, "origin": "base", "part": "whole", **vars(row)}
            yield _with_reason(found, {**columns, "random": others})


def _of_the_rescaled(scores: RunData, found: CauseEvidence, random: RandomGrafts) -> Iterator[Row]:
    """What the fitted scales bring to the base, and then the groups to the rescaled base."""
    base, tuned = (each.logit_diff.astype(np.float64) for each in (found.base, found.tuned))
    columns: dict[tuple[str, str], np.ndarray] = {
        ("output_scales", "add_one_in"): found.hybrids[0] - base,
        ("non_negative_scales", "add_one_in"): found.non_negative - base,
    }
    sizes: dict[str, int | None] = {**found.n_parameters}
    for quantity in ("add_one_in", "leave_one_out", "shapley"):
        for group in found.n_parameters:
            columns[group, quantity] = contribution(found.hybrids, quantity, group)
    elsewhere = [columns[group, "shapley"] for group in ELSEWHERE]
    columns["elsewhere", "shapley"] = np.sum(elsewhere, axis=0)
    sizes["elsewhere"] = sum(found.n_parameters[group] for group in ELSEWHERE)
    sizes["output_scales"] = sizes["non_negative_scales"] = len(found.scales)
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
        (group, "add_one_in"): others for group, others in found.support.grafts.items()
    }
    for index, (group, quantity) in enumerate(columns):
        improvement = divided.parts[index]
        others = compare_to_random(
            improvement.value, random.get(("rescaled_base", group, quantity), ())
        )
        yield _with_reason(
            found,
            {
                "origin": "rescaled_base",
                "group": group,
                "part": "whole",
                "quantity": quantity,
                "n_parameters": sizes[group],
                "improvement": improvement,
                "share": divided.share(index),
                "random": judged.get((group, quantity), others),
            },
        )


def _with_reason(found: CauseEvidence, row: Row) -> Row:
    """Take the share from groups of heads where no heads could be told apart."""
    if found.choice.not_reported and row["group"] in (*_GROUPS, "elsewhere"):
        return {**row, "share": None}
    return row


def scale_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``output_scales``."""
    rows = []
    for training_run in scores.experiment.training_runs():
        for node, scale in evidence_of(scores, training_run).scales.items():
            place = scores.graph.places[scores.graph.nodes.index(node)]
            names = {**scores.names(training_run), "step": scores.last, "node": node}
            rows.append({**names, "layer": place.layer, "head": place.head, "scale": scale})
    return rows


def mediation_rows(scores: RunData) -> Iterator[Row]:
    """Rows of the table ``mediation``."""
    return _gathered(scores, MEDIATION)


def crosspatch_rows(scores: RunData) -> Iterator[Row]:
    """Rows of the table ``crosspatch``."""
    return _gathered(scores, CROSSPATCH)


def _gathered(scores: RunData, analysis: Analysis) -> Iterator[Row]:
    for training_run in scores.experiment.training_runs():
        names = {**scores.names(training_run), "step": scores.last}
        for row in scores.rows(swapped_rows(training_run.name, analysis.name)):
            yield {**names, **analysis.whole(row)}


def graft_checkpoints(experiment: Experiment) -> list[int]:
    """Checkpoints before the last at which the groups are grafted, evenly spread."""
    between = experiment.steps()[1:-1]
    n, wanted = len(between), min(experiment.compare.graft_checkpoints, len(between))
    return [between[(2 * place + 1) * n // (2 * wanted)] for place in range(wanted)]


_AT_LAST = (*TRAINING_RUN, STEP)
_GREY = "Grey: size-matched random heads (matched layer by layer where there are enough)"
_PART_OF_G = (
    interval("improvement", "part of G, in logits"),
    interval("share", "the same as a share of G"),
)
GRAFTS = Analysis(
    "grafts",
    "Weight grafts: one row per step, origin, group, part and quantity.",
    (
        *_AT_LAST,
        text("origin", "the model that gets the weights: `base` or `rescaled_base`"),
        text(
            "group",
            "`old_heads`, `recruited_heads`, `other_heads`, `mlps`, `shared`, `elsewhere`; "
            "`output_scales` and `non_negative_scales` are rescaling alone",
        ),
        text("part", "`whole`, `qk` (query and key weights) or `ov` (value and output weights)"),
        text("heads", "of the group"),
        text("quantity", "`add_one_in`, `leave_one_out` or `shapley`"),
        integer("n_parameters", "of the group"),
        *_PART_OF_G,
        RANDOM,
    ),
    ("scores", "grafts", "grafts_between", "head_grafts", "random_grafts"),
    graft_rows,
    "Causes, by weights",
    shown_in="grafts",
)
MEDIATION = Analysis(
    "mediation",
    "One row per group: what remains with all other heads frozen to their base activations.",
    (
        *_AT_LAST,
        text("group", "`no heads`, `old_heads`, `recruited_heads`, `other_heads`, `all heads`"),
        text("heads", "of the group"),
        integer("n_heads", "how many"),
        *_PART_OF_G,
        RANDOM,
    ),
    ("mediation",),
    mediation_rows,
    "Causes, by activations",
    Section(
        "Improvement mediated by each group",
        "Improvement that remains when all other heads are frozen to their base activations, with "
        f"95 % intervals. {_GREY}, from the smallest to the largest, and their mean. Dashed: the "
        "whole improvement.",
        "activations",
    ),
)
CROSSPATCH = Analysis(
    "crosspatch",
    "Cross-model patching: one row per group, position and direction.",
    (
        *_AT_LAST,
        text("group", "of heads, or `mlps`"),
        text("heads", "the components of the group"),
        text("position", "a named position, or `everywhere`"),
        text("direction", "`tuned_into_base` or `base_into_tuned`"),
        *_PART_OF_G,
        real("accuracy", "candidate accuracy of the patched model"),
        RANDOM,
    ),
    ("crosspatch",),
    crosspatch_rows,
    "Causes, by activations",
    Section(
        "Cross-model activation patching",
        "Improvement in logits when a group\u2019s activations of the fine-tuned model are patched "
        "into the base on the same prompt, and the loss when those of the base are patched into "
        f"the fine-tuned model, at one named position or everywhere. {_GREY}.",
        "activations",
    ),
)
OUTPUT_SCALES = Analysis(
    "output_scales",
    "One row per node.",
    (*_AT_LAST, NODE, *PLACE, real("scale", "factor on the node's output in the rescaled base")),
    ("scores", "grafts"),
    scale_rows,
    "Causes, by weights",
    Section(
        "The rescaled base",
        "Scale of the output of each head and MLP in the rescaled base. The scales are fitted so "
        "that the outputs match those of the fine-tuned model, in the directions that affect the "
        "answer; 1 changes nothing.",
        "weights",
    ),
)
