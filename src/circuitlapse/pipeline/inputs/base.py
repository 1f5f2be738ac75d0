"""What the base model is, and what can be checked of an experiment before any work starts."""

from pathlib import Path
from typing import Any

from circuitlapse.config.base import Base
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import place_of
from circuitlapse.records.store import content_hash
from circuitlapse.tasks.registry import get_task


def base_identity(base: Base) -> dict[str, Any]:
    """Say what a base model is, down to a hash of its recipe or its files.

    Raises:
        CircuitlapseError: If there is no such model.
    """
    if base.organism is not None:
        from circuitlapse.organisms.organism import organism_key
        from circuitlapse.organisms.recipe import get_recipe

        key = organism_key(get_recipe(base.organism), base.seed)
        chosen = {"pretrain": True} if base.pretrain else {}
        return {"organism": base.organism, "recipe_sha256": key, "seed": base.seed, **chosen}
    directory = Path(base.source)
    if directory.is_dir():
        return {"path": base.path, "sha256": content_hash(directory), "seed": base.seed}
    from transformers import AutoConfig

    try:
        revision = AutoConfig.from_pretrained(base.source)._commit_hash
    except (OSError, ValueError) as error:
        raise CircuitlapseError(
            "there is no such base model",
            got=base.path,
            fix="Give a directory written by save_pretrained, or a name on the Hub that can be "
            "reached from here",
        ) from error
    return {"path": base.path, "revision": revision, "seed": base.seed}


def check_training(experiment: Experiment) -> None:
    """Check that the trainer knows every name that the recipes use, and can use the device.

    Raises:
        CircuitlapseError: Listing the names that it knows, or saying how to choose a GPU.
    """
    if ":" in experiment.compute.device:
        from circuitlapse.training.arguments import check_device

        check_device(experiment.compute.device)
    plain = Finetune()  # pyright: ignore[reportCallIssue]
    for recipe in experiment.finetune.recipes().values():
        chosen = (recipe.optimizer, recipe.schedule, recipe.trainer)
        if chosen != (plain.optimizer, plain.schedule, plain.trainer):  # importing it takes seconds
            from circuitlapse.training.arguments import check_names

            check_names(recipe)


def check_parts(experiment: Experiment) -> None:
    """Check that the base has every head and MLP that the experiment names.

    Raises:
        CircuitlapseError: Naming the first that it lacks.
    """
    lists = {
        "finetune.train_only": experiment.finetune.train_only,
        "controls.train_only": [
            part
            for parts in experiment.controls.train_only
            if not isinstance(parts, str)
            for part in parts
        ],
    }
    named = [(key, part) for key, parts in lists.items() for part in parts if part[-1].isdigit()]
    if not named:
        return
    layers, heads = _size(experiment.base)
    for key, node in named:
        place = place_of(node)
        if place is not None and (place.layer >= layers or place.head >= heads):
            raise CircuitlapseError(
                f"{key} names a part that the base does not have",
                got=node,
                fix=f"It has {layers} layers of {heads} heads: a0.h0 to a{layers - 1}.h{heads - 1}"
                f", m0 to m{layers - 1}",
            )


def _size(base: Base) -> tuple[int, int]:
    if base.organism is not None:
        from circuitlapse.organisms.recipe import get_recipe

        recipe = get_recipe(base.organism)
        return recipe.layers, recipe.heads
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base.source)
    return config.num_hidden_layers, config.num_attention_heads


def check_tasks(experiment: Experiment) -> None:
    """Check that both tasks exist and have every counterfactual type that is asked for.

    Raises:
        CircuitlapseError: Naming the task and the families that it has.
    """
    for name in (experiment.tasks.old, experiment.tasks.new):
        task = get_task(name)
        for family in experiment.measure.counterfactuals:
            if family not in task.families:
                raise CircuitlapseError(
                    f"the task {name!r} has no counterfactual type of that name",
                    got=family,
                    fix=f"measure.counterfactuals may hold {', '.join(task.families)}",
                )
    if experiment.controls.unrelated:
        get_task(experiment.controls.unrelated)
