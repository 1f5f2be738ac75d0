"""What a run will cost, before it is started: projected time, memory and disk of every job.

The projection counts forward passes through a layer. One token through one layer takes the time of
its multiplications, at the speed that this machine reaches now on a matrix product, plus the
time of its memory traffic, which grows with the width only. It is meant to tell minutes from hours;
expect it to be off by half.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from circuitlapse.config.experiment import Experiment
from circuitlapse.models.files.checkpoints import locate
from circuitlapse.pipeline.job import Job
from circuitlapse.pipeline.measure.readings import PATCHED_PROMPTS as PATCHED
from circuitlapse.pipeline.run.run import jobs_of, looked_up
from circuitlapse.records.store import Store
from circuitlapse.tasks.registry import get_task
from circuitlapse.verdict.thresholds import JUDGED_GROUPS

_PROMPT_TOKENS = 22  # the mean over the tasks' templates
_NAMED = 5  # named positions of a task
_POSITIONS = 7  # named ones of the tasks here, and everywhere
_TRAFFIC = (
    5e-8  # seconds per token, layer and unit of width, measured on a 4-layer model of width 64
)
_PROCESS_MIB = 450  # an interpreter with torch and transformers imported
_FIXED_SECONDS = 0.3  # small jobs: reading, tables, writing
_STEP_SECONDS = 0.02  # an optimiser step's overhead in the trainer


@dataclass(frozen=True)
class Estimated:
    """One job's projected cost.

    Attributes:
        name: The job.
        state: ``ready`` where its artifacts are there already, else ``to do``.
        seconds: In one process with one thread.
        memory_mib: Of the process that does it.
        disk_mib: Of its artifacts.
    """

    name: str
    state: str
    seconds: float
    memory_mib: float
    disk_mib: float


@dataclass(frozen=True)
class _Shape:
    layers: int
    heads: int
    width: int
    vocabulary: int

    @property
    def layer_weights(self) -> int:
        return 12 * self.width**2

    @property
    def mib(self) -> float:
        weights = self.layers * self.layer_weights + self.width * (self.vocabulary + 1024)
        return weights * 4 / 2**20


def estimates(experiment: Experiment, out: Path) -> list[Estimated]:
    """Project the cost of every job of an experiment, in the order of the plan.

    Args:
        experiment: What would be run.
        out: Where; artifacts that are there already are marked as ready.

    Raises:
        CircuitlapseError: If the experiment names a task or a model that does not exist.
    """
    experiment = looked_up(experiment)
    jobs, store = jobs_of(experiment), Store(out)
    shape, speed = _shape_of(experiment), _multiplications_per_second()
    found = []
    for job in jobs:
        ready = all(store.state(output, job.key) == "ready" for output in job.outputs)
        seconds = _FIXED_SECONDS + _seconds(job, experiment, shape, speed)
        memory = _PROCESS_MIB + _memory(job, experiment, shape)
        disk = _disk(job, experiment, shape)
        found.append(Estimated(job.name, "ready" if ready else "to do", seconds, memory, disk))
    return found


def _shape_of(e: Experiment) -> _Shape:
    base = e.base
    if base.organism is not None:
        from circuitlapse.organisms.recipe import get_recipe
        from circuitlapse.organisms.tokenizer import build_tokenizer

        recipe = get_recipe(base.organism)
        return _Shape(recipe.layers, recipe.heads, recipe.d_model, len(build_tokenizer()))
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(locate(base.source) if e.checkpoints else base.source)
    return _Shape(
        config.num_hidden_layers, config.num_attention_heads, config.hidden_size, config.vocab_size
    )


def _multiplications_per_second() -> float:
    matrix = torch.ones(512, 512)
    torch.mm(matrix, matrix)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < 0.05:
        torch.mm(matrix, matrix)
        done += 1
    return done * 512**3 / (time.perf_counter() - started)


def _seconds(job: Job, e: Experiment, shape: _Shape, speed: float) -> float:
    token_layer = shape.layer_weights / speed + _TRAFFIC * shape.width
    forward = _PROMPT_TOKENS * shape.layers * token_layer  # one prompt
    unembed = shape.width * shape.vocabulary / speed
    # Patching one head restarts at its layer: half of the model on average.
    patch_all = shape.layers * (shape.heads + 1) / 2 * forward
    match job.kind:
        case "base" if e.base.organism is not None:
            from circuitlapse.organisms.recipe import get_recipe

            recipe = get_recipe(e.base.organism)
            row = 3 * (forward + _PROMPT_TOKENS * unembed)
            return recipe.steps * (_STEP_SECONDS + recipe.batch * row)
        case "finetune" | "placebo" | "control" | "output_scales":
            row = 3 * (forward + _PROMPT_TOKENS * unembed)
            looks = (
                len(e.finetune.checkpoint_steps())
                if job.kind in ("control", "output_scales")
                else 0
            )
            looking = looks * e.control_prompts * (forward + unembed)
            return e.finetune.steps * (_STEP_SECONDS + e.finetune.batch_size * row) + looking
        case "measure":
            per_pair = patch_all if job.params["exact"] else 0.0
            if job.params["circuits"]:
                points = e.measure.ig_steps if e.measure.method == "eap-ig-inputs" else 1
                curve = 2 * len(e.measure.circuit_sizes) * forward
                per_pair += (3 * points + 2) * forward + curve
            # Only what comes after the first difference is computed: about half.
            patched = _variants(job.params["task"], e) * e.measure.circuit_prompts * per_pair / 2
            return 2 * e.measure.prompts * (forward + unembed) + patched
        case "read":
            # Per task a run for lens, direct attribution and attention, examples, first blocks; and
            # copying, which sounds part of the vocabulary for either sign at some mentions.
            reading = 2 * e.measure.circuit_prompts * (3 * forward + shape.heads * unembed / 8)
            if job.params["placebo"] or not e.is_end(job.params["step"]):
                return reading
            # A patch at one position runs what is to its right and above it: a quarter on average.
            by_position = 3 * _NAMED * shape.layers * forward / 4
            variants = _first_variants(e)
            return reading + variants * PATCHED * (by_position + 2 * patch_all / 2)
        case "graft":
            # Hybrids of base and rescaled base; by graft and mediation, random groups beside two.
            runs = 2 * 32 + 2 * 2 * (JUDGED_GROUPS + 1)
            hybrids = runs * e.compare.graft_prompts * (forward + unembed)
            return hybrids + 7 * e.compare.group_prompts * patch_all / 2
        case "old_circuit":
            return e.compare.group_prompts * patch_all / 2
        case "few_shot":
            examples = sum(count + 1 for count in e.controls.few_shot)
            return e.control_prompts * (examples * forward + unembed)
        case "graft_at":
            return 32 * e.compare.intervention_prompts * (forward + unembed)
        case "swap":
            beside = e.compare.intervention_prompts * (e.compare.random_groups + 1)
            # Three groups of heads: two parts, first and last in; both ways at some positions; and
            # whole, first and last in, in base and rescaled base, but for what the verdict has.
            prompts = {
                "mediation": (5 + JUDGED_GROUPS) * e.compare.graft_prompts,
                "head_grafts": 3 * 2 * 2 * beside,
                "random_grafts": 10 * e.compare.random_groups * e.compare.graft_prompts,
                # At a position only what is to its right is run: six tenths on average.
                "crosspatch": round(0.6 * 3 * 2 * _POSITIONS * beside),
            }
            return prompts[job.params["swap"]] * (forward + unembed)
        case _:
            return 0.0


def _variants(name: str, e: Experiment) -> int:
    families = get_task(name).families
    wanted = [f for f in e.measure.counterfactuals if f in families] or list(families)[:1]
    return sum(len(families[family]) for family in wanted)


def _first_variants(e: Experiment) -> int:
    first = e.measure.counterfactuals[0]
    return sum(len(get_task(task).families[first]) for task in (e.tasks.old, e.tasks.new))


def _memory(job: Job, e: Experiment, shape: _Shape) -> float:
    # Fine-tuning holds weights, gradients and two moments; a graft three models.
    models_of = {
        "base": 4,
        "finetune": 4,
        "placebo": 4,
        "control": 5,
        "measure": 1,
        "read": 1,
        "graft": 5,
        "graft_at": 3,
        "swap": 4,
        "old_circuit": 1,
        "output_scales": 2,
        "few_shot": 1,
    }
    models = models_of.get(job.kind, 0)
    working = 300 if job.kind == "measure" else 0
    return models * shape.mib + working


def _disk(job: Job, e: Experiment, shape: _Shape) -> float:
    if job.kind in ("finetune", "placebo"):
        return sum(output.startswith("checkpoints/") for output in job.outputs) * shape.mib
    if job.kind == "measure" and job.params["circuits"]:
        nodes = shape.layers * (shape.heads + 1)
        readers = shape.layers * (3 * shape.heads + 1) + 1
        per_variant = 3 * (nodes + 1) * readers + e.measure.circuit_prompts * nodes
        variants = _variants(job.params["task"], e)
        return 4 * variants * per_variant / 2**20
    return 0.1
