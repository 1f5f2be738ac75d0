"""An experiment as a graph of pure jobs, each named by the hash of everything it is made from.

A job's key is the hash of its kind, its settings and its inputs' keys, so it is known before any
work is done: what is already there, and what a change of the experiment would make again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from circuitlapse.config.controls import Placebo
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import ONLY, Finetune, TrainingRun
from circuitlapse.config.section import OLD_CIRCUIT
from circuitlapse.pipeline.job import Job, Kind
from circuitlapse.pipeline.run.plan_controls import add_controls, add_old_circuit
from circuitlapse.pipeline.run.plan_evidence import add_evidence
from circuitlapse.records.columns import SCHEMAS
from circuitlapse.records.layout import (
    FINETUNE,
    SEPARATION,
    checkpoint,
    checkpoint_record,
    half_readings,
    patching,
    patterns,
    placebo_use,
    prompts,
    readings,
    scores,
    training,
    verdict_path,
)
from circuitlapse.records.store import content_hash, key_of

# Raised by one when a job of that kind would give results from the same inputs that differ by
# more than rounding.
_VERSIONS: dict[Kind, int] = {
    **dict.fromkeys(Kind.__args__, 1),
    "placebo": 2,
    "swap": 2,
    "table": 2,
    "verdict": 3,
}


def fine_tune_of(job: Job) -> str | None:
    """Name the fine-tune, or placebo, that comes to nothing without a job; None where none does."""
    match job.kind:
        case "finetune" | "graft" | "graft_at" | "swap":
            return TrainingRun(job.params["recipe"], job.params["seed"]).name
        case "placebo":
            kind, recipe, seed = (job.params[key] for key in ("placebo", "recipe", "seed"))
            return Placebo(kind, recipe, seed).name
        case "measure" | "read":
            return job.params["training_run"]
        case _:
            return None


def training_uses(experiment: Experiment) -> list[str]:
    """Name everything that is trained on, the fine-tune's own prompts first."""
    if experiment.checkpoints:
        return []
    kinds = [
        each.kind
        for recipe in experiment.finetune.recipes()
        for each in experiment.placebos(recipe)
    ]
    return list(dict.fromkeys([FINETUNE, *map(placebo_use, kinds)]))


def _not_trained_by(recipe: Finetune) -> set[str]:
    """Keys of a recipe that one fine-tune does not depend on."""
    unset = set() if recipe.train_only else {"train_only"}
    return {"seeds", "placebo", "grid"} | unset


class _Graph:
    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def add(
        self,
        kind: Kind,
        name: str,
        outputs: tuple[str, ...],
        settings: object,
        needs: tuple[str, ...] = (),
        **params: Any,
    ) -> str:
        inputs = [self.jobs[need].key for need in needs]
        key = key_of(kind, _VERSIONS[kind], params, settings, inputs)
        self.jobs[name] = Job(name, kind, params, outputs, needs, key)
        return name


def plan_jobs(
    experiment: Experiment,
    base_identity: Mapping[str, Any],
    checkpoints: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[Job]:
    """List an experiment's jobs, each after those that it needs.

    Args:
        experiment: What to do.
        base_identity: What the base model is, down to the hash of its recipe or weights.
        checkpoints: What each of the user's checkpoints is, by step, where nothing is trained.
    """
    graph = _Graph()
    e, tasks = experiment, (experiment.tasks.old, experiment.tasks.new)
    measure, compare = (section.model_dump(mode="json") for section in (e.measure, e.compare))
    recipes = {
        name: recipe.model_dump(mode="json", exclude=_not_trained_by(recipe))
        for name, recipe in e.finetune.recipes().items()
    }
    sampling = [e.finetune.steps, e.finetune.batch_size, e.finetune.replay_fraction]
    taken = {
        step: graph.add(
            "checkpoint",
            f"checkpoint of step {step}",
            (checkpoint_record(e.training_runs()[0].name, step),),
            None,
            identity=dict(identity),
        )
        for step, identity in (checkpoints or {}).items()
    }
    # A task of the battery is known by its name, one of someone's own by its file's content.
    files = [content_hash(Path(task)) for task in tasks if Path(task).is_absolute()]
    base = graph.add(
        "base", "base model", ("base.json",), dict(base_identity), tuple(taken.values())[:1]
    )

    def add_prompts(task: str, split: str) -> str:
        return graph.add(
            "prompts",
            f"prompts {task} {split}",
            (prompts(task, split),),
            [measure, compare, *files],
            (base,),
            task=task,
            split=split,
        )

    held_out = {
        (task, split): add_prompts(task, split)
        for task in tasks
        for split in ("test", "test_templates", "validation")
    }
    training_items = {
        use: graph.add(
            "prompts",
            f"prompts for {use}",
            (prompts(use, "train"),),
            [*sampling, *tasks, e.measure.seed, *files],
            (base,),
            task=use,
            split="train",
        )
        for use in training_uses(e)
    }

    separation = graph.add(
        "separation",
        "training apart from test",
        (SEPARATION,),
        None,
        (*held_out.values(), *training_items.values()),
    )
    measured: dict[tuple[str, int, str], str] = {}

    def measure_at(name: str, step: int, task: str, source: str, circuits: bool = True) -> None:
        measured[name, step, task] = graph.add(
            "measure",
            f"measure {name} step {step} {task}",
            (scores(name, step, task),),
            measure,
            (source, held_out[task, "test"], held_out[task, "test_templates"], separation),
            training_run=name,
            step=step,
            task=task,
            circuits=circuits,
            exact=e.patches_at(step),
        )

    reading = [e.measure.circuit_prompts, e.measure.counterfactuals[0], e.measure.seed]
    last = e.steps()[-1]
    tunes: list[str] = []
    causes: dict[str, tuple[str, ...]] = {}
    read: list[str] = []
    noise: list[str] = []
    tuned_at: dict[str, dict[int, str]] = {}
    watched = tuple(held_out[task, "validation"] for task in tasks)
    heads = add_old_circuit(graph.add, e, base, watched[0])
    parts = heads if e.finetune.train_only == OLD_CIRCUIT else ()

    def placebo_of(placebo: Placebo) -> str:
        return graph.add(
            "placebo",
            f"fine-tune {placebo.name}",
            (checkpoint(placebo.name, last),),
            recipes[placebo.recipe],
            (base, training_items[placebo_use(placebo.kind)], *parts),
            placebo=placebo.kind,
            recipe=placebo.recipe,
            seed=placebo.seed,
        )

    for training_run in e.training_runs():
        name, params = training_run.name, {"recipe": training_run.recipe, "seed": training_run.seed}
        tuned = taken or dict.fromkeys(
            e.steps(),
            graph.add(
                "finetune",
                f"fine-tune {name}",
                (*(checkpoint(name, s) for s in e.steps()), training(name)),
                recipes[training_run.recipe],
                (base, training_items[FINETUNE], *watched, *parts),
                **params,
            ),
        )
        tuned_at[name] = tuned
        tunes += () if taken else (tuned[last],)
        # Jobs are begun in this order, and these take longest: other work goes on beside them.
        for table, jobs in add_evidence(graph.add, e, training_run, tuned, held_out).items():
            causes[table] = (*causes.get(table, ()), *jobs)
        # Likewise those that patch, and the new task, whose prompts tend to be the longer: one of
        # them alone at the end would keep all others waiting.
        for step in sorted(e.steps(), key=lambda step: not e.patches_at(step)):
            for task in reversed(tasks):
                measure_at(name, step, task, tuned[step])
            read.append(
                graph.add(
                    "read",
                    f"read {name} step {step}",
                    (
                        readings(name, step),
                        *([patterns(name, step), patching(name, step)] if e.is_end(step) else []),
                        *([half_readings(name)] if step == 0 else []),
                    ),
                    reading,
                    (tuned[step], *(held_out[task, "test"] for task in tasks)),
                    training_run=name,
                    step=step,
                    placebo=False,
                )
            )
    training_runs = tuple(measured.values())
    # The scores of step 0 hold the graph, which names the heads of a group.
    graphs = tuple(measured[training_run.name, 0, tasks[0]] for training_run in e.training_runs())
    for table in ("grafts", "output_scales"):
        causes[table] = (*causes[table], *graphs)
    for placebo in (each for recipe in recipes for each in e.placebos(recipe)):
        for task in tasks:
            measure_at(placebo.name, last, task, placebo_of(placebo), circuits=False)
        if placebo.kind == e.finetune.placebo:
            noise.append(
                graph.add(
                    "read",
                    f"read {placebo.name}",
                    (readings(placebo.name, last),),
                    reading,
                    (placebo_of(placebo), *(held_out[task, "test"] for task in tasks)),
                    training_run=placebo.name,
                    step=last,
                    placebo=True,
                )
            )
    placebos = tuple(measured.values())[len(training_runs) :]
    elicitable = add_controls(
        graph.add, e, recipes, held_out, base, training_items.get(FINETUNE), heads
    )
    unrelated: list[str] = []
    if e.controls.unrelated:
        for split in ("test", "test_templates"):
            held_out[e.controls.unrelated, split] = add_prompts(e.controls.unrelated, split)
        for name in (training_run.name for training_run in e.control_runs()):
            for step in (0, last):
                measure_at(name, step, e.controls.unrelated, tuned_at[name][step], circuits=False)
                unrelated.append(measured[name, step, e.controls.unrelated])
    sources = {
        "behaviour": training_runs,
        "placebo": (*training_runs, *placebos),
        "nodes": training_runs,
        "edges": training_runs,
        "faithfulness": training_runs,
        "invariance": training_runs,
        "overlap": (*training_runs, *placebos, *unrelated),
        "head_changes": (*training_runs, *placebos, *read, *noise),
        "readings": tuple(read),
        "patching": (*read, *training_runs),
        "training": tuple(tunes),
        "shortcuts": training_runs,
        "roles": (*training_runs, *read, *noise),
        "dynamics": (*training_runs, *training_items.values()),
        **causes,
        "elicitable": (*training_runs, *elicitable),
    }
    tables = tuple(
        graph.add(
            "table",
            f"table {name}",
            (f"tables/{name}.parquet",),
            [compare, e.controls.model_dump(mode="json")] if name == "elicitable" else compare,
            sources[name],
            table=name,
        )
        for name in SCHEMAS
    )
    verdicts = tuple(
        graph.add(
            "verdict",
            "verdict" if recipe == ONLY else f"verdict {recipe}",
            (verdict_path(recipe),),
            compare,
            (*measured.values(), *causes["output_scales"], *tables),
            recipe=recipe,
        )
        for recipe in recipes
    )
    graph.add("provenance", "provenance", ("provenance.json",), None, verdicts)
    return list(graph.jobs.values())
