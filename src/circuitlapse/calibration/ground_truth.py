"""Ground-truth models: organisms of which it is known where the new ability came from.

The base has unused heads, whose output was zero during pretraining. ``elicited`` has a base of its
own; the other kinds of one seed share one.

``formed``
    Only the unused heads are trained on the new task: what solves it was not there before.
``transformed``
    Only the heads that the base uses on the old task are trained on the new one.
``elicited``
    The base learns the new task with its unused heads frozen. Then only these heads are trained to
    answer at random, which suppresses the ability, as in password-locked models (Greenblatt et al.
    2024). That is the organism's base. Its tuned model is a fine-tune of all weights on the new
    task, which ends as soon as the ability is unlocked.
``nothing``
    A placebo fine-tune; see :mod:`circuitlapse.training.placebos`.

Training may not do what it is meant to, so every organism is validated
(:mod:`circuitlapse.calibration.organism_checks`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from circuitlapse.calibration.organism_checks import (
    KINDS,
    OrganismFigures,
    old_heads,
    scores,
    why_rejected,
    zero_ablate,
)
from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_name
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.output_scales import write_scales
from circuitlapse.models.files.load import load_model
from circuitlapse.organisms.organism_cache import NEW, OLD, GroundTruthConfig, OrganismFactory
from circuitlapse.organisms.recipe import Recipe, get_recipe
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.answers import Behaviour
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.training.placebos import PLACEBOS, placebo_items
from circuitlapse.training.restricted import Restriction
from circuitlapse.training.train_scales import train_scales
from circuitlapse.two_models.mediation import behaviours_with_frozen_heads

ALL_WEIGHTS = "all_weights"
"""A variant of ``elicited``; see :func:`make_organism`."""

# Unused heads per layer. Suppression needs them in every layer. With some in the first layer,
# `formed` would learn the new task by driving the base's own heads, so it has more in later layers.
_ELICITED = (2, 2, 2, 2)
_OTHERS = (0, 2, 3, 3)


@dataclass(frozen=True)
class KnownOrganism:
    """An organism with its ground truth, validated or not.

    Attributes:
        kind: The ground truth.
        seed: Seed of pretraining and fine-tuning.
        base: Directory of the model before.
        tuned: Directory of the model after.
        placebo: Directory of a placebo fine-tune of the same base on shuffled answers, at least as
            long as the real one; None for ``nothing``, which is itself a placebo.
        trained: The heads that were trained alone, if any.
        figures: Measured on validation prompts: accuracies (``_old`` over the whole vocabulary,
            ``_new`` over the candidates), ``improvement`` (G, in logits), ``rise`` (of the new
            task's accuracy), ``learned`` (``rise`` over what was left to learn), and those of
            :mod:`circuitlapse.calibration.organism_checks`.
        why_rejected: Why it was not validated; else empty.
    """

    kind: str
    seed: int
    base: Path
    tuned: Path
    placebo: Path | None
    trained: tuple[str, ...]
    figures: Mapping[str, float]
    why_rejected: str


def organism_recipe(kind: str = "formed") -> Recipe:
    """Return the default recipe with the unused heads that a kind of organism needs.

    Raises:
        CircuitlapseError: If there is no such kind.
    """
    _check_kind(kind)
    recipe = get_recipe("default")
    blank = tuple(
        head_name(layer, head)
        for layer, n in enumerate(_ELICITED if kind == "elicited" else _OTHERS)
        for head in range(recipe.heads - n, recipe.heads)
    )
    return recipe.model_copy(update={"blank_heads": blank})


def make_organism(
    kind: str,
    seed: int,
    *,
    variant: str = "",
    recipe: Recipe | None = None,
    config: GroundTruthConfig | None = None,
    cache_dir: Path | str | None = None,
    progress: Callable[[str], None] | None = None,
) -> KnownOrganism:
    """Make and validate an organism of a kind; its models are taken from the cache if possible.

    ``variant`` of ``nothing`` is the placebo, by default ``shuffled_answers``. For ``elicited``,
    :data:`ALL_WEIGHTS` suppresses the ability with all weights, not only those heads. That may
    destroy the ability and cannot be undone, so it is never validated. ``progress`` gets each
    model's name before it is made.

    Raises:
        CircuitlapseError: If the kind does not exist, the recipe has no unused heads, or no base
            could be made with this seed.
    """
    _check_kind(kind)
    recipe = recipe or organism_recipe(kind)
    if not recipe.blank_heads:
        raise CircuitlapseError(
            "a ground-truth model needs a recipe with unused heads",
            got=f"the recipe {recipe.name!r} without any",
            fix="Set blank_heads, as organism_recipe() does",
        )
    factory = OrganismFactory(recipe, seed, config or GroundTruthConfig(), cache_dir, progress)
    pair, trained, more = _MAKERS[kind](factory, variant)
    placebo = None if kind == "nothing" else _placebo(factory, pair.directories[0], PLACEBOS[0])
    figures = {**pair.figures(), **more}
    return KnownOrganism(
        kind, seed, *pair.directories, placebo, trained, figures, why_rejected(kind, figures)
    )


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise CircuitlapseError(
            "there is no such kind of organism", got=kind, fix=f"Use one of {', '.join(KINDS)}"
        )


@dataclass(frozen=True)
class _Pair:
    """A base and its tuned model, loaded, with the figures of both."""

    directories: tuple[Path, Path]
    base: Model
    tuned: Model
    prompts: PromptPairs
    before: OrganismFigures
    after: OrganismFigures

    @classmethod
    def of(cls, base: Path, tuned: Path, n: int) -> "_Pair":
        first, last = load_model(base, "cpu"), load_model(tuned, "cpu")
        old, new = (
            tokenize(get_task(task).items("validation", n), first.tokenizer, "names")
            for task in (OLD, NEW)
        )
        before, after = scores(first, old, new), scores(last, old, new)
        return cls((base, tuned), first, last, new, before, after)

    def share(self, name: str, found: Behaviour) -> dict[str, float]:
        """The share of the improvement that a model reaches; empty without an improvement."""
        improvement = self.after.value - self.before.value
        mean = found.logit_diff.mean(dtype=np.float64).item()
        return {name: (mean - self.before.value) / improvement} if improvement > 0 else {}

    def figures(self) -> dict[str, float]:
        before, after = self.before, self.after
        rise = after.new - before.new
        return {
            "base_old": before.old,
            "base_new": before.new,
            "tuned_old": after.old,
            "tuned_new": after.new,
            "improvement": after.value - before.value,
            "rise": rise,
            **({"learned": rise / (1 - before.new)} if before.new < 1 else {}),
        }


_Made = tuple[_Pair, tuple[str, ...], dict[str, float]]
"""Base and tuned model, the heads that were trained alone, and the figures of the kind."""


def _formed(factory: OrganismFactory, variant: str) -> _Made:
    blank = factory.recipe.blank_heads
    items = factory.training_items()
    tuned = factory.tuned("formed", factory.base, items, Restriction(blank))
    pair = _Pair.of(factory.base, tuned, factory.config.prompts)
    (mediated,) = behaviours_with_frozen_heads(pair.base, pair.tuned, pair.prompts, [blank])
    return pair, blank, pair.share("mediated", mediated)


def _transformed(factory: OrganismFactory, variant: str) -> _Made:
    config = factory.config
    rescaled = load_model(factory.base, "cpu")
    heads = old_heads(rescaled, OLD, config.group_prompts)
    items = factory.training_items()
    tuned = factory.tuned("transformed", factory.base, items, Restriction(heads))
    pair = _Pair.of(factory.base, tuned, config.prompts)
    new = [item for item in items if len(item.distractors) == len(pair.prompts.distractors[0])]
    scales = train_scales(
        rescaled,
        tokenize(new, rescaled.tokenizer, "names"),
        heads,
        steps=config.scale_steps,
        batch_size=config.batch_size,
        seed=factory.seed,
    )
    write_scales(rescaled, scales)
    return pair, heads, pair.share("by_scales", behaviour(rescaled, pair.prompts))


def _elicited(factory: OrganismFactory, variant: str) -> _Made:
    config, blank = factory.config, factory.recipe.blank_heads
    suppressed = factory.suppressed(all_weights=variant == ALL_WEIGHTS)
    items = factory.training_items()
    tuned = factory.tuned("elicited", suppressed, items, until=config.unlocked_at)
    pair = _Pair.of(suppressed, tuned, config.prompts)
    if variant == ALL_WEIGHTS:
        return pair, blank, {}
    unlocked = load_model(suppressed, "cpu")
    zero_ablate(unlocked, blank)
    new = behaviour(unlocked, pair.prompts).candidate_correct.mean(dtype=np.float64).item()
    return pair, blank, {"unlocked_new": new}


def _nothing(factory: OrganismFactory, variant: str) -> _Made:
    tuned = _placebo(factory, factory.base, variant or PLACEBOS[0])
    return _Pair.of(factory.base, tuned, factory.config.prompts), (), {}


def _placebo(factory: OrganismFactory, start: Path, placebo: str) -> Path:
    config = factory.config
    items = placebo_items(
        placebo,
        get_task(OLD),
        get_task(NEW),
        config.steps * config.batch_size,
        replay_fraction=config.replay_fraction,
    )
    return factory.tuned(placebo, start, items)


_MAKERS: dict[str, Callable[[OrganismFactory, str], _Made]] = {
    "formed": _formed,
    "transformed": _transformed,
    "elicited": _elicited,
    "nothing": _nothing,
}
