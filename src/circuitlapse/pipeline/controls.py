"""The jobs of control fine-tunes: what the base reaches when only some of it may move.

Behaviour is measured while they train, at every step that has a checkpoint in the fine-tune beside
them, so that no checkpoint of theirs is kept. An interrupted one goes on with the points it has.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback

from circuitlapse.compare.choice import old_circuit
from circuitlapse.compare.matched import matched_heads
from circuitlapse.config import Experiment, Finetune, joins, processes
from circuitlapse.config.controls import OLD_CIRCUIT, RANK_1
from circuitlapse.models import Model, behaviour, load_model, quiet
from circuitlapse.models.gains import gained
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.measure import load_arrays, save_arrays
from circuitlapse.pipeline.plan import Job
from circuitlapse.pipeline.plan_controls import OLD_HEADS, RANDOM_SET
from circuitlapse.pipeline.progress import Advance
from circuitlapse.pipeline.prompts import Prompts, read_items
from circuitlapse.pipeline.tune import arm_of, base_directory, base_tokenizer, old_items
from circuitlapse.records import Store, replacing
from circuitlapse.tasks import PromptPairs, get_task, tokenize
from circuitlapse.training import BlownUpError, Restart, finetune
from circuitlapse.training.gains import train_gains
from circuitlapse.training.restricted import Restriction
from circuitlapse.training.watch import check_weights


@dataclass(frozen=True)
class OldCircuit:
    """The heads that the base uses on the old task, and random sets that match them.

    Attributes:
        heads: Chosen on validation prompts, as the fates choose them.
        random_sets: As many heads in each layer, drawn at random.
        refused: Why there are none; else empty.
    """

    heads: Sequence[str]
    random_sets: Sequence[Sequence[str]]
    refused: str


def choose(job: Job, store: Store, experiment: Experiment, base: Model) -> None:
    """Choose the heads of the old circuit and the random sets beside them."""
    old, controls = experiment.tasks.old, experiment.controls
    prompts = Prompts(store, old, base.tokenizer)
    variants = get_task(old).families[experiment.measure.corruptions[0]]
    pairs = {v: prompts.pairs("validation", experiment.compare.group_prompts, v) for v in variants}
    found = old_circuit(base, pairs)
    refused = found.refused or ("" if found.old_heads else "the base uses no head on the old task")
    sets = []
    if not refused:
        sets = matched_heads(base.graph, found.old_heads, controls.random_sets, controls.seed)
    document = asdict(OldCircuit(found.old_heads, sets, refused))
    with store.write(job.outputs[0], job.key) as path:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def control(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Fine-tune with everything held but some parts, or with adapters of rank 1."""
    if processes() > 1:
        PartialState().wait_for_everyone()  # what is read below must be there for all
    name, arm = job.params["control"], arm_of(job)
    parts, refused = _parts(job, store, experiment)
    if refused:
        if not joins():
            _write(job, store, {}, parts, None, refused)
        return
    recipe = experiment.finetune.recipes()[arm.recipe]
    counted: Any
    if name == RANK_1:
        recipe, counted = _of_rank_1(recipe), _Counted()
    else:
        recipe, counted = recipe.model_copy(update={"method": "full"}), Restriction(parts)
    directory = store.root / plan.restart(job)
    points = _Points(directory / "points", recipe.checkpoint_steps())
    restart = Restart(directory, before=min(points.missing, default=recipe.steps))
    pairs = _asked(store, experiment)

    def save(step: int, model: PreTrainedModel, tokenizer: Any) -> None:
        if step in points.missing:
            check_weights(step, model)
            # A copy: what is loaded for looking is frozen.
            looked_at = load_model(copy.deepcopy(model).eval())
            points.add(step, looked_at, pairs)

    stopped = ""
    try:
        finetune(
            base_directory(experiment),
            read_items(store.read(plan.prompts(plan.FINETUNE, "train"))),
            save,
            recipe,
            seed=arm.seed,
            device=experiment.compute.device,
            restart=restart,
            logs=store.root / "logs" / Path(job.outputs[0]).with_suffix(""),
            callbacks=[counted],
            progress=advance,
        )
    except BlownUpError as error:
        stopped = str(error)
    if joins():
        return
    _write(job, store, points.arrays(), parts, counted.n_free, stopped)
    restart.clear()


def gains(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Train one factor per head and MLP on the new task's prompts, and nothing else."""
    arm = arm_of(job)
    recipe = experiment.finetune.recipes()[arm.recipe]
    base = load_model(base_directory(experiment), experiment.compute.device)
    items = read_items(store.read(plan.prompts(plan.FINETUNE, "train")))[old_items(experiment) :]
    corruption = get_task(experiment.tasks.new).corruptions[0]
    asked, steps = _asked(store, experiment), recipe.checkpoint_steps()
    found: dict[int, Any] = {}

    def look(step: int, factors: torch.Tensor) -> None:
        if step in steps:
            scaled = gained(base.decoder, factors.to(base.decoder.W_E))
            found[step] = behaviour(replace(base, decoder=scaled), asked)
        if step:
            advance(step, recipe.steps)

    train_gains(
        base, tokenize(items, base.tokenizer, corruption), steps=recipe.steps,
        batch_size=recipe.batch_size, seed=arm.seed, look=look,
    )  # fmt: skip
    arrays = {step: _shown(each) for step, each in found.items()}
    _write(job, store, arrays, ["gains"], len(base.graph.nodes), "")


class _Counted(TrainerCallback):
    """How many numbers are trained, where whole tensors are free or not."""

    n_free = 0

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = kwargs["model"].parameters()
        self.n_free = sum(each.numel() for each in parameters if each.requires_grad)


class _Points:
    """The points of a curve, each kept as soon as it is measured."""

    def __init__(self, directory: Path, steps: Sequence[int]) -> None:
        self.directory = directory
        self.missing = {step for step in steps if not self._path(step).exists()}

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:05d}.safetensors"

    def add(self, step: int, model: Model, pairs: PromptPairs) -> None:
        with replacing(self._path(step)) as path:
            save_arrays(_shown(behaviour(model, pairs)), path, {})
        self.missing.discard(step)

    def arrays(self) -> dict[int, dict[str, np.ndarray]]:
        found = sorted(self.directory.glob("step-*.safetensors"))
        return {int(path.stem[5:]): load_arrays(path) for path in found}


def _shown(found: Any) -> dict[str, np.ndarray]:
    quantities = ("logit_diff", "correct_among")
    return {name: getattr(found, name).cpu().numpy() for name in quantities}


def _write(
    job: Job,
    store: Store,
    points: dict[int, dict[str, np.ndarray]],
    parts: Sequence[str],
    n_parameters: int | None,
    refused: str,
) -> None:
    about = {
        "steps": list(points), "parts": " ".join(parts), "n_parameters": n_parameters,
        "refused": refused,
    }  # fmt: skip
    arrays = {}
    for name in ("logit_diff", "correct_among"):
        if points:
            arrays[name] = np.stack([each[name] for each in points.values()])
    with store.write(job.outputs[0], job.key) as path:
        save_arrays(arrays, path, about)


def _parts(job: Job, store: Store, experiment: Experiment) -> tuple[Sequence[str], str]:
    """What a control trains, or why it trains nothing."""
    name: str = job.params["control"]
    repeat: int = job.params["repeat"]
    if name in (OLD_CIRCUIT, RANDOM_SET):
        found = OldCircuit(**json.loads(store.read(OLD_HEADS).read_text("utf-8")))
        if found.refused:
            return (), found.refused
        if name == OLD_CIRCUIT:
            return found.heads, ""
        if repeat < len(found.random_sets):
            return found.random_sets[repeat], ""
        return (), f"there are only {len(found.random_sets)} other sets of as many heads"
    if name == "mlps":
        return _mlps(base_directory(experiment)), ""
    return name.split(), ""


def _mlps(base: Path | str) -> list[str]:
    with quiet():
        config = AutoModelForCausalLM.from_pretrained(base).config
    return [f"m{layer}" for layer in range(config.num_hidden_layers)]


def _of_rank_1(recipe: Finetune) -> Finetune:
    """The recipe with adapters of rank 1 on every matrix, scaled as the recipe's own are."""
    scale = recipe.lora.alpha / recipe.lora.rank
    lora = recipe.lora.model_copy(update={"rank": 1, "alpha": scale, "targets": ("all-linear",)})
    return recipe.model_copy(update={"method": "lora", "lora": lora})


def _asked(store: Store, experiment: Experiment) -> PromptPairs:
    new = experiment.tasks.new
    prompts = Prompts(store, new, base_tokenizer(experiment))
    # Any corruption does: behaviour looks at the clean prompts only.
    return prompts.pairs("test", experiment.control_prompts, get_task(new).corruptions[0])
