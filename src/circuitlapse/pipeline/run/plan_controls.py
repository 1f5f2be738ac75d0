"""The part of the plan that stands beside the evidence: each control is a job with an artifact."""

from collections.abc import Callable, Mapping
from typing import Any

from circuitlapse.config.controls import OUTPUT_SCALES, RANDOM_SET, trained
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.section import OLD_CIRCUIT
from circuitlapse.records.layout import FEW_SHOT, OLD_HEADS, control_label, curve


def add_old_circuit(
    add: Callable[..., str], experiment: Experiment, base: str, validation: str
) -> tuple[str, ...]:
    """Add the job that chooses the old circuit's heads, where anything trains these alone.

    Args:
        add: Adds a job and returns its name.
        experiment: What to do.
        base: The job that looks at the base.
        validation: The job that writes the old task's validation prompts.
    """
    e, c = experiment, experiment.controls
    if OLD_CIRCUIT not in (e.finetune.train_only, *c.train_only):
        return ()
    chosen = [e.measure.counterfactuals[0], e.compare.group_prompts, c.seed, c.random_sets]
    needs = (base, validation)
    return (add("old_circuit", "old-task heads", (OLD_HEADS,), chosen, needs),)


def add_controls(
    add: Callable[..., str],
    experiment: Experiment,
    recipes: Mapping[str, Any],
    held_out: Mapping[tuple[str, str], str],
    base: str,
    trained_on: str | None,
    heads: tuple[str, ...],
) -> list[str]:
    """Add the jobs of all controls to a plan.

    Args:
        add: Adds a job and returns its name.
        experiment: What to do.
        recipes: Every recipe's settings, as they enter the keys of fine-tunes.
        held_out: By task and split, the job that writes the prompts.
        base: The job that looks at the base.
        trained_on: The job that writes the training prompts; None where nothing is trained.
        heads: The job that chooses the old circuit's heads, where there is one.

    Returns:
        The jobs behind the table ``elicitable``.
    """
    e, c = experiment, experiment.controls
    tested = (held_out[e.tasks.new, "test"],)
    elicitable = []
    sets = trained(c)
    for training_run in e.control_runs():
        for control, repeat in sets:
            needs = heads if control in (OLD_CIRCUIT, RANDOM_SET) else ()
            elicitable.append(
                add(
                    "output_scales" if control == OUTPUT_SCALES else "control",
                    f"train {control_label(control, repeat)} {training_run.name}",
                    (curve(training_run.name, control, repeat),),
                    [recipes[training_run.recipe], e.control_prompts],
                    (base, *([trained_on] if trained_on else []), *tested, *needs),
                    recipe=training_run.recipe,
                    seed=training_run.seed,
                    control=control,
                    repeat=repeat,
                )
            )
    # They are about the base, whatever becomes of the fine-tunes.
    if c.few_shot:
        settings = [c.few_shot, e.control_prompts, c.seed, e.measure.seed]
        elicitable.append(add("few_shot", "few-shot", (FEW_SHOT,), settings, (base, *tested)))
    return elicitable
