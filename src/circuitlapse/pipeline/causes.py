"""Whose weights bring the gain: what is measured of it, and the tables ``grafts`` and ``gains``.

Arrays in ``scores/ARM/grafts.safetensors``, in logits, one column for each test prompt of the new
task: ``values``, the hybrids of base and tuned model in the order of
:data:`circuitlapse.compare.shares.SUBSETS`; and those of
:class:`circuitlapse.compare.evidence.CauseEvidence`, which the verdict rests on. In
``scores/ARM/step-…/grafts.safetensors`` stands ``values`` alone, for a checkpoint in between.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from circuitlapse.compare import gain_shares, graft_values, parameter_groups
from circuitlapse.compare.causes import ELSEWHERE
from circuitlapse.compare.evidence import CauseEvidence, EvidencePrompts, cause_evidence
from circuitlapse.compare.matched import Beside, beside
from circuitlapse.compare.ratios import divide, logit_rounding
from circuitlapse.compare.shares import contribution
from circuitlapse.config import Arm, Compare, Experiment
from circuitlapse.models import Graph, Model
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.load import load_several
from circuitlapse.pipeline.measure import Arrays, load_about, load_arrays, save_arrays
from circuitlapse.pipeline.plan import Job
from circuitlapse.pipeline.plan_evidence import graft_steps, grafts, grafts_at, swapped_rows
from circuitlapse.pipeline.progress import Advance
from circuitlapse.pipeline.prompts import Prompts, read_items
from circuitlapse.pipeline.tabulate import Row, Scores, spread
from circuitlapse.pipeline.tune import arm_of
from circuitlapse.records import Store
from circuitlapse.tasks import Item, PromptPairs, get_task, tokenize

RandomGrafts = Mapping[tuple[str, str, str], Sequence[float]]
"""Gains of random groups by where they were grafted, beside which group, and first or last."""

_GROUPS = ("old_heads", "recruited_heads", "other_heads")


def graft_arrays(
    models: Mapping[str, Model],
    items: Mapping[str, list[Item]],
    scored: list[Item],
    family: str,
    settings: Compare,
    advance: Callable[[int, int], None],
) -> tuple[Arrays, dict[str, Any]]:
    """Choose groups of heads on validation prompts and measure what they bring on test prompts.

    Args:
        models: ``base`` and ``tuned``.
        items: Validation items of the old and then of the new task, by task.
        scored: Test items of the new task.
        family: Corruption family behind the choice.
        settings: The seed of random groups.
        advance: Called with (parts done, parts in all).

    Returns:
        Arrays as the module's docstring says, and what else the evidence holds as metadata.
    """
    tokenizer = models["base"].tokenizer
    old, new = (
        {variant: tokenize(items[task], tokenizer, variant)
         for variant in get_task(task).families[family]}
        for task in items
    )  # fmt: skip
    test = tokenize(scored, tokenizer, get_task(list(items)[1]).corruptions[0])
    found = cause_evidence(
        models["base"], models["tuned"], EvidencePrompts(old, new, test), seed=settings.seed,
        advance=advance,
    )  # fmt: skip
    arrays, about = found.to_arrays()
    return {**arrays, "values": hybrids(models, found, test)}, about


def graft(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Do the job that chooses the groups and measures what the verdict rests on."""
    arm, last = arm_of(job), experiment.steps()[-1]
    old, new = experiment.tasks.old, experiment.tasks.new
    places = {"base": (arm.name, 0), "tuned": (arm.name, last)}
    validation = {
        task: read_items(store.read(plan.prompts(task, "validation"))) for task in (old, new)
    }
    scored = read_items(store.read(plan.prompts(new, "test")))[: experiment.compare.graft_prompts]
    with store.write(job.outputs[0], job.key) as path:
        models = load_several(store, experiment, places)
        family = experiment.measure.corruptions[0]
        arrays, about = graft_arrays(
            models, validation, scored, family, experiment.compare, advance
        )
        save_arrays(arrays, path, about)


def two_models(
    job: Job, store: Store, experiment: Experiment, step: int
) -> tuple[dict[str, Model], CauseEvidence, PromptPairs]:
    """Load base and checkpoint, the groups of heads, and the new task's test prompts."""
    arm, new = arm_of(job).name, experiment.tasks.new
    models = load_several(store, experiment, {"base": (arm, 0), "tuned": (arm, step)})
    prompts = Prompts(store, new, models["base"].tokenizer)
    pairs = prompts.pairs("test", experiment.compare.graft_prompts, get_task(new).corruptions[0])
    return models, read_causes(store.read(grafts(arm))), pairs


def graft_at(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Do the job that grafts a checkpoint in between."""
    with store.write(job.outputs[0], job.key) as path:
        models, found, pairs = two_models(job, store, experiment, job.params["step"])
        few = pairs[: experiment.compare.beside_prompts]
        save_arrays({"values": hybrids(models, found, few)}, path, {})


def hybrids(models: Mapping[str, Model], found: CauseEvidence, pairs: PromptPairs) -> np.ndarray:
    """Logit differences of all hybrids of base and tuned model, ``[subsets, prompts]``.

    Args:
        models: ``base`` and ``tuned``.
        found: Which heads are in which group.
        pairs: The new task's test prompts.
    """
    choice = found.choice
    groups = parameter_groups(models["base"].hf, choice.old_heads, choice.recruited_heads)
    return graft_values(models["base"], models["tuned"], groups, pairs)


def read_causes(content: bytes) -> CauseEvidence:
    """Read what was measured of one fine-tune's causes."""
    return CauseEvidence.of_arrays(load_arrays(content), load_about(content))


def causes_of(scores: Scores, arm: Arm) -> CauseEvidence:
    """What was measured of one fine-tune's causes, with its hash checked."""
    return read_causes(scores.store.read(grafts(arm.name)))


def head_groups(found: CauseEvidence, graph: Graph) -> dict[str, tuple[str, ...]]:
    """The heads of each group of heads that has any."""
    old, recruited = found.choice.old_heads, found.choice.recruited_heads
    others = [head for head in graph.heads if head not in {*old, *recruited}]
    groups = dict(zip(_GROUPS, (old, recruited, tuple(others)), strict=True))
    return {group: heads for group, heads in groups.items() if heads}


def beside_columns(random: Beside | None) -> Row:
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


def graft_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``grafts``."""
    rows = []
    for arm in scores.experiment.arms():
        found = causes_of(scores, arm)
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
    scores: Scores, arm: Arm, found: CauseEvidence, random: RandomGrafts
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
            yield _refused(found, {**columns, **beside_columns(beside(row.gain, gains))})


def _of_the_gained(scores: Scores, found: CauseEvidence, random: RandomGrafts) -> Iterator[Row]:
    """What the fitted gains bring to the base, and then the groups to the gained base."""
    base, tuned = (each.logit_diff.double().numpy() for each in (found.base, found.tuned))
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
        np.stack(list(columns.values()), axis=1), tuned - base, seed=[settings.seed, 0],
        repeats=settings.bootstrap, rounding=logit_rounding(found.hybrids),
    )  # fmt: skip
    judged: dict[tuple[str, str], Beside | None] = {
        (group, "first_in"): others for group, others in found.support.grafts.items()
    }
    for index, (group, quantity) in enumerate(columns):
        gain = divided.parts[index]
        others = beside(gain.value, random.get(("gained", group, quantity), ()))
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
                **beside_columns(judged.get((group, quantity), others)),
            },
        )


def _refused(found: CauseEvidence, row: Row) -> Row:
    """Take the share from groups of heads where no heads could be told apart."""
    if found.choice.refused and row["group"] in (*_GROUPS, "elsewhere"):
        return {**row, **spread("share", None)}
    return row


def gain_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``gains``."""
    rows = []
    for arm in scores.experiment.arms():
        for node, gain in causes_of(scores, arm).gains.items():
            place = scores.graph.places[scores.graph.nodes.index(node)]
            names = {**scores.names(arm), "step": scores.last, "node": node}
            rows.append({**names, "layer": place.layer, "head": place.head, "gain": gain})
    return rows
