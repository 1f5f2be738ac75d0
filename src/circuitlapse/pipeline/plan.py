"""An experiment as a graph of pure jobs, each named by the hash of everything it is made from.

A job's key is the hash of its kind, its settings and its inputs' keys, so it is known before any
work is done: what is already there, and what a change of the experiment would make again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from circuitlapse.config import ONLY, Arm, Experiment, file_label
from circuitlapse.records import SCHEMAS, content_hash, key_of, verdict_path

Kind = Literal[
    "prompts", "separation", "checkpoint", "base", "finetune", "placebo", "measure", "read",
    "graft", "table", "verdict", "provenance",
]  # fmt: skip

# Raised by one when a job of that kind would give other results from the same inputs.
_VERSIONS: dict[Kind, int] = dict.fromkeys(Kind.__args__, 1)

FINETUNE = "finetune"
PLACEBO = "placebo-old-task"
SEPARATION = "tasks/separation.json"


@dataclass(frozen=True)
class Job:
    """One pure piece of work.

    Attributes:
        name: What the user sees.
        kind: Which function does it.
        params: Which checkpoint, task or table it is about.
        outputs: Artifacts that it writes, as paths inside the run directory.
        needs: Names of the jobs whose artifacts it reads.
        key: Hash of all that the outputs are made from.
    """

    name: str
    kind: Kind
    params: Mapping[str, Any]
    outputs: tuple[str, ...]
    needs: tuple[str, ...]
    key: str


def checkpoint(arm: str, step: int) -> str:
    """Path of a checkpoint's directory inside the run."""
    return f"checkpoints/{arm}/step-{step:05d}"


def checkpoint_record(arm: str, step: int) -> str:
    """Path of what is known of a checkpoint that stays where the user has it."""
    return f"{checkpoint(arm, step)}.json"


def scores(arm: str, step: int, task: str) -> str:
    """Path of what was measured of one task at one checkpoint."""
    return f"scores/{arm}/step-{step:05d}/{file_label(task)}.safetensors"


def readings(arm: str, step: int) -> str:
    """Path of what was read from one checkpoint."""
    return f"readings/{arm}/step-{step:05d}.safetensors"


def training(arm: str) -> str:
    """Path of how a fine-tune went."""
    return f"training/{arm}.json"


def restart(job: "Job") -> str:
    """Path of the state that an interrupted fine-tune goes on from; no artifact of the run."""
    return f".restart-{job.key[:16]}"


def patterns(arm: str, step: int) -> str:
    """Path of one checkpoint's attention on example prompts."""
    return f"patterns/{arm}/step-{step:05d}.safetensors"


def patching(arm: str, step: int) -> str:
    """Path of what one checkpoint does when its sites are patched."""
    return f"patching/{arm}/step-{step:05d}.safetensors"


def grafts(arm: str) -> str:
    """Path of what the hybrids of base and fine-tuned weights reach."""
    return f"scores/{arm}/grafts.safetensors"


def prompts(task: str, split: str) -> str:
    """Path of a task's items."""
    return f"tasks/{file_label(task)}.{split}.jsonl"


def placebo_arm(arm: Arm) -> str:
    """Name of the placebo fine-tune beside a fine-tune."""
    return f"{PLACEBO}-{arm.name}"


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
        name: recipe.model_dump(mode="json", exclude={"seeds", "placebo", "grid"})
        for name, recipe in e.finetune.recipes().items()
    }
    sampling = [e.finetune.steps, e.finetune.batch_size, e.finetune.old_fraction]
    taken = {
        step: graph.add(
            "checkpoint", f"checkpoint of step {step}",
            (checkpoint_record(e.arms()[0].name, step),), None, identity=dict(identity),
        )
        for step, identity in (checkpoints or {}).items()
    }  # fmt: skip
    # A task of the battery is known by its name, one of someone's own by its file's content.
    files = [content_hash(Path(task)) for task in tasks if Path(task).is_absolute()]
    base = graph.add(
        "base", "base model", ("base.json",), dict(base_identity), tuple(taken.values())[:1]
    )
    held_out = {}
    for task in tasks:
        for split in ("test", "test_templates", "validation"):
            held_out[task, split] = graph.add(
                "prompts", f"prompts {task} {split}", (prompts(task, split),),
                [measure, compare, *files], (base,),
                task=task, split=split,
            )  # fmt: skip
    training_items = {
        use: graph.add(
            "prompts", f"prompts for {use}", (prompts(use, "train"),),
            [*sampling, *tasks, e.measure.seed, *files], (base,), task=use, split="train",
        )
        for use in (FINETUNE, PLACEBO)
        if not taken and (use == FINETUNE or e.finetune.placebo)
    }  # fmt: skip

    separation = graph.add(
        "separation", "training apart from test", (SEPARATION,), None,
        (*held_out.values(), *training_items.values()),
    )  # fmt: skip
    measured: dict[tuple[str, int, str], str] = {}

    def measure_at(name: str, step: int, task: str, source: str, roles: list[str]) -> None:
        measured[name, step, task] = graph.add(
            "measure", f"measure {name} step {step} {task}", (scores(name, step, task),),
            [measure, roles],
            (source, held_out[task, "test"], held_out[task, "test_templates"], separation),
            arm=name, step=step, task=task, circuits="circuits" in roles, exact=e.patches_at(step),
        )  # fmt: skip

    last = e.steps()[-1]
    tunes: list[str] = []
    grafted: list[str] = []
    read: list[str] = []
    placebos: list[str] = []
    watched = tuple(held_out[task, "validation"] for task in tasks)
    for arm in e.arms():
        name, params = arm.name, {"recipe": arm.recipe, "seed": arm.seed}
        tuned = taken or dict.fromkeys(
            e.steps(),
            graph.add(
                "finetune", f"fine-tune {name}",
                (*(checkpoint(name, s) for s in e.steps()), training(name)),
                recipes[arm.recipe], (base, training_items[FINETUNE], *watched), **params,
            ),
        )  # fmt: skip
        tunes += () if taken else (tuned[last],)
        control = None
        if e.finetune.placebo:
            name_of_placebo = placebo_arm(arm)
            control = graph.add(
                "placebo", f"fine-tune {name_of_placebo}", (checkpoint(name_of_placebo, last),),
                recipes[arm.recipe], (base, training_items[PLACEBO]), **params,
            )  # fmt: skip
        for step in e.steps():
            for task in tasks:
                measure_at(name, step, task, tuned[step], ["behaviour", "circuits"])
            read.append(
                graph.add(
                    "read", f"read {name} step {step}",
                    (
                        readings(name, step), patterns(name, step),
                        *([patching(name, step)] if e.patches_at(step) else []),
                    ),
                    [e.measure.circuit_prompts, e.measure.corruptions[0], e.measure.seed],
                    (tuned[step], *(held_out[task, "test"] for task in tasks)), arm=name, step=step,
                )
            )  # fmt: skip
        if control is not None:
            measure_at(placebo_arm(arm), last, tasks[0], control, ["behaviour", "circuits"])
            measure_at(placebo_arm(arm), last, tasks[1], control, ["behaviour"])
            placebos += [measured[placebo_arm(arm), last, task] for task in tasks]
        grafted.append(
            graph.add(
                "graft",
                f"grafts {name}",
                (grafts(name),),
                [measure, compare],
                (
                    *dict.fromkeys((tuned[0], tuned[last])),
                    *(held_out[task, "validation"] for task in tasks),
                    held_out[tasks[1], "test"],
                    *((control,) if control else ()),
                ),
                **params,
            )
        )
    everything = tuple(measured.values())
    arms = tuple(name for name in everything if name not in placebos)
    sources = {
        "behaviour": arms, "placebo": tuple(placebos), "nodes": arms, "edges": arms,
        "faithfulness": arms, "controls": arms, "overlap": arms, "fates": everything,
        "grafts": tuple(grafted), "readings": tuple(read), "patching": (*read, *arms),
        "training": tuple(tunes), "shortcuts": arms,
    }  # fmt: skip
    tables = tuple(
        graph.add(
            "table",
            f"table {name}",
            (f"tables/{name}.parquet",),
            compare,
            sources[name],
            table=name,
        )
        for name in SCHEMAS
    )
    verdicts = tuple(
        graph.add(
            "verdict", "verdict" if recipe == ONLY else f"verdict {recipe}",
            (verdict_path(recipe),), compare, (*everything, *grafted, *tables), recipe=recipe,
        )
        for recipe in recipes
    )  # fmt: skip
    graph.add("provenance", "provenance", ("provenance.json",), None, verdicts)
    return list(graph.jobs.values())
