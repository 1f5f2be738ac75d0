"""Parts of one model in the other, group by group: mediation, cross-model patching, QK and OV.

Each is written as a JSON list of table rows without the columns that name the run. Whole groups are
grafted in ``measure/grafts``; here are the random groups of the same size, whose
improvements are such a list too.
"""

from collections.abc import Mapping

from circuitlapse.analyses.grafts import CROSSPATCH, GRAFTS, MEDIATION, head_groups
from circuitlapse.config.experiment import Compare, Experiment
from circuitlapse.models.engine.model import Model
from circuitlapse.pipeline.job import Advance, Job
from circuitlapse.pipeline.measure.grafts import two_models
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.columns import Row
from circuitlapse.records.store import Store, write_json
from circuitlapse.two_models.crosspatch import crosspatch
from circuitlapse.two_models.fit_scales import rescaled
from circuitlapse.two_models.head_grafts import head_grafts, random_grafts
from circuitlapse.two_models.mediation import mediation
from circuitlapse.two_models.patched_runs import EVERYWHERE
from circuitlapse.verdict.evidence import CauseEvidence
from circuitlapse.verdict.thresholds import JUDGED_GROUPS


def head_graft_rows(
    models: Mapping[str, Model],
    found: CauseEvidence,
    pairs: PromptPairs,
    settings: Compare,
    advance: Advance,
) -> list[Row]:
    """Graft the heads' QK and OV circuits apart from each other."""
    groups = head_groups(found, models["base"].graph)
    rows = head_grafts(
        models["base"],
        models["tuned"],
        pairs[: settings.intervention_prompts],
        groups,
        seed=settings.seed,
        parts=("qk", "ov"),
        n_random=settings.random_groups,
        repeats=settings.bootstrap,
        advance=advance,
    )
    return [
        GRAFTS.flat(
            {
                "origin": "base",
                "group": row.group,
                "part": row.part,
                "quantity": row.quantity,
                "n_parameters": None,
                "improvement": row.improvement,
                "share": row.share,
                "random": row.random,
            }
        )
        for row in rows
    ]


def random_graft_rows(
    models: Mapping[str, Model],
    found: CauseEvidence,
    pairs: PromptPairs,
    settings: Compare,
    advance: Advance,
) -> list[Row]:
    """Graft size-matched random groups into the base and into the rescaled base.

    The verdict's own evidence has add-one-in of the groups that a label may name: this is not
    measured again. Each row has the mean ``improvements`` of its random groups in logits.
    """
    base, tuned = models["base"], models["tuned"]
    groups = head_groups(found, base.graph)
    others = {group: heads for group, heads in groups.items() if group not in found.graft}
    add_one_in = {"base": groups, "rescaled_base": others}
    rows = []
    for origin, start in (("base", base), ("rescaled_base", rescaled(base, found.scales))):
        random = random_grafts(
            start,
            tuned,
            pairs,
            {"add_one_in": add_one_in[origin], "leave_one_out": groups},
            seed=settings.seed,
            n_random=settings.random_groups,
            advance=advance,
        )
        rows += [
            {"origin": origin, "group": group, "quantity": quantity, "improvements": improvements}
            for (quantity, group), improvements in random.items()
        ]
    return rows


def mediation_rows(
    models: Mapping[str, Model],
    found: CauseEvidence,
    pairs: PromptPairs,
    settings: Compare,
    advance: Advance,
) -> list[Row]:
    """Hold heads at the base's activations.

    Groups that a label may name are compared with the random groups of the verdict's own evidence,
    on the same prompts; the others with as many.
    """
    groups = head_groups(found, models["base"].graph)
    judged = {str(group): random for group, random in found.support.mediation.items()}
    rows = mediation(
        models["base"],
        models["tuned"],
        pairs,
        groups,
        seed=settings.seed,
        n_random=dict.fromkeys(groups.keys() - judged.keys(), JUDGED_GROUPS),
        repeats=settings.bootstrap,
        advance=advance,
    )
    return [
        MEDIATION.flat(
            {
                "group": row.group,
                "heads": ", ".join(row.heads),
                "n_heads": len(row.heads),
                "improvement": row.improvement,
                "share": row.share,
                "random": judged.get(row.group, row.random),
            }
        )
        for row in rows
    ]


def crosspatch_rows(
    models: Mapping[str, Model],
    found: CauseEvidence,
    pairs: PromptPairs,
    settings: Compare,
    advance: Advance,
) -> list[Row]:
    """Patch the groups of heads and the MLPs, both ways, everywhere and at each named position."""
    graph = models["base"].graph
    groups = {**head_groups(found, graph), "mlps": graph.mlps}
    few = pairs[: settings.intervention_prompts]
    rows = crosspatch(
        models["base"],
        models["tuned"],
        few,
        groups,
        [EVERYWHERE, *few.positions],
        seed=settings.seed,
        n_random=settings.random_groups,
        repeats=settings.bootstrap,
        advance=advance,
    )
    return [
        CROSSPATCH.flat(
            {
                "group": row.group,
                "heads": ", ".join(groups[row.group]),
                "position": row.position,
                "direction": row.direction,
                "improvement": row.improvement,
                "share": row.share,
                "accuracy": row.accuracy,
                "random": row.random,
            }
        )
        for row in rows
    ]


_SWAPS = {
    "head_grafts": head_graft_rows,
    "random_grafts": random_graft_rows,
    "mediation": mediation_rows,
    "crosspatch": crosspatch_rows,
}


def swap(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Do the job that one of these functions describes."""
    with store.write(job.outputs[0], job.key) as path:
        given = two_models(job, store, experiment, experiment.steps()[-1])
        rows = _SWAPS[job.params["swap"]](*given, experiment.compare, advance)
        write_json(path, rows)
