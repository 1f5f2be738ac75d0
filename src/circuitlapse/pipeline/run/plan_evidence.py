"""The part of the plan that finds the causes: grafts, and parts of one model in the other."""

from collections.abc import Callable, Mapping

from circuitlapse.analyses.grafts import graft_checkpoints
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.records.layout import grafts, grafts_at, swapped_rows

SWAPPED = ("head_grafts", "random_grafts", "mediation", "crosspatch")


def add_evidence(
    add: Callable[..., str],
    experiment: Experiment,
    training_run: TrainingRun,
    tuned: Mapping[int, str],
    held_out: Mapping[tuple[str, str], str],
) -> dict[str, list[str]]:
    """Add the jobs on one fine-tune's causes to a plan.

    Args:
        add: Adds a job and returns its name.
        experiment: What to do.
        training_run: The fine-tune.
        tuned: By step, the job that makes the checkpoint.
        held_out: By task and split, the job that writes the prompts.

    Returns:
        The jobs behind the tables ``grafts``, ``output_scales``, ``mediation`` and ``crosspatch``.
    """
    e, (old, new) = experiment, (experiment.tasks.old, experiment.tasks.new)
    measure, compare = (section.model_dump(mode="json") for section in (e.measure, e.compare))
    params, tested = (
        {"recipe": training_run.recipe, "seed": training_run.seed},
        held_out[new, "test"],
    )
    ends = tuple(dict.fromkeys((tuned[0], tuned[e.steps()[-1]])))
    chosen = add(
        "graft",
        f"grafts {training_run.name}",
        (grafts(training_run.name),),
        [measure, compare],
        (*ends, held_out[old, "validation"], held_out[new, "validation"], tested),
        **params,
    )
    between = [
        add(
            "graft_at",
            f"grafts {training_run.name} step {step}",
            (grafts_at(training_run.name, step),),
            compare,
            tuple(dict.fromkeys((tuned[0], tuned[step], chosen, tested))),
            **params,
            step=step,
        )
        for step in graft_checkpoints(e)
    ]
    swaps = {
        swap: add(
            "swap",
            f"{swap.replace('_', ' ')} {training_run.name}",
            (swapped_rows(training_run.name, swap),),
            compare,
            (*ends, chosen, tested),
            **params,
            swap=swap,
        )
        for swap in SWAPPED
    }
    return {
        "grafts": [chosen, *between, swaps["head_grafts"], swaps["random_grafts"]],
        "output_scales": [chosen],
        "mediation": [swaps["mediation"]],
        "crosspatch": [swaps["crosspatch"]],
    }
