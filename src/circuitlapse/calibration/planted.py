"""Organisms in which the answer is planted: the ability was formed, transformed, elicited, or not.

The base has blank heads: heads that wrote nothing while it was pretrained. ``elicited`` has a base
of its own, and the other kinds of one seed share one.

``formed``
    Only the blank heads are trained on the new task: what does it now, was not there.
``transformed``
    Only the heads that the base uses on the old task are trained on the new one.
``elicited``
    The base learns the new task with its blank heads frozen. Then only the blank heads are trained
    to answer at random, which suppresses the ability. That is the organism's base. Its tuned model
    is a fine-tune of all its weights on the new task, which ends as soon as the ability is back.
``nothing``
    A placebo fine-tune; see :mod:`circuitlapse.training.placebos`.

Whether the plan worked is measured (:mod:`circuitlapse.calibration.organism_checks`). Every model
on the way is kept in the cache of organisms, under the hash of what it was made from.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from circuitlapse.calibration.organism_checks import (
    KINDS,
    OrganismFigures,
    old_heads,
    refusal,
    scores,
    silence,
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
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.training.placebos import PLACEBOS, placebo_items
from circuitlapse.training.restricted import Restriction
from circuitlapse.training.train_scales import train_scales
from circuitlapse.two_models.mediation import behaviours_with_frozen_heads

ALL_WEIGHTS = "all_weights"
"""A way of planting ``elicited``; see :func:`plant`."""

# Blank heads per layer.
_LOCKABLE = (2, 2, 2, 2)
_FORMING = (0, 2, 3, 3)


@dataclass(frozen=True)
class Planted:
    """An organism, whether validated or not.

    Attributes:
        kind: The truth that was to be planted.
        seed: Of pretraining and fine-tuning.
        base: Directory of the model before.
        tuned: Directory of the model after.
        placebo: Directory of a placebo fine-tune of the same base on shuffled answers, at least as
            long as the real one; None for ``nothing``, which is one itself.
        trained: The heads that alone were trained, where that is how it was planted.
        figures: What was measured, by name. Accuracies on validation prompts (``_old`` over the
            whole vocabulary, ``_new`` among the names); ``improvement`` is G in logits; ``rise`` is
            that of the new task's accuracy, and ``learned`` the same over what was left to learn;
            the rest is in :mod:`circuitlapse.calibration.organism_checks`.
        why_rejected: Why it is rejected; empty where it is.
    """

    kind: str
    seed: int
    base: Path
    tuned: Path
    placebo: Path | None
    trained: tuple[str, ...]
    figures: Mapping[str, float]
    why_rejected: str


def planted_recipe(kind: str = "formed") -> Recipe:
    """The default recipe with blank heads where a kind of organism needs them.

    No one layout is known that admits all kinds. A lock needs blank heads in every layer: two in
    each. What is to be formed needs none in the first layer, since they would learn the new task
    by driving the base's own heads anew, and more of them behind: two, three and three. The other
    kinds do not need blank heads, and share that base.

    Raises:
        CircuitlapseError: If there is no such kind.
    """
    if kind not in KINDS:
        raise _unknown(kind)
    recipe = get_recipe("default")
    layout = _LOCKABLE if kind == "elicited" else _FORMING
    blank = [
        head_name(layer, head)
        for layer, n in enumerate(layout)
        for head in range(recipe.heads - n, recipe.heads)
    ]
    return recipe.model_copy(update={"blank_heads": tuple(blank)})


def plant(
    kind: str,
    seed: int,
    *,
    variant: str = "",
    recipe: Recipe | None = None,
    planting: GroundTruthConfig | None = None,
    cache_dir: Path | str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Planted:
    """Make an organism of a kind, or take it from the cache, and test whether it is one.

    Args:
        kind: ``formed``, ``transformed``, ``elicited`` or ``nothing``.
        seed: Of pretraining, and of the fine-tunes' shuffling.
        variant: Which placebo ``nothing`` is, ``shuffled_answers`` if empty. For ``elicited``,
            :data:`ALL_WEIGHTS` locks with all weights, not only with blank heads: such a lock may
            have destroyed what it hides, cannot be taken out to see, and is never validated.
        recipe: Of the base, with blank heads. Default: :func:`planted_recipe` for the kind.
        planting: How the truth is planted. Default: the defaults of :class:`Planting`.
        cache_dir: Where models are kept; see :func:`circuitlapse.organisms.organism`.
        progress: Called with what is being made, before it is.

    Raises:
        CircuitlapseError: If the kind does not exist, the recipe has no blank heads, or no base
            could be made with this seed.
    """
    recipe = recipe or planted_recipe(kind)
    if not recipe.blank_heads:
        raise CircuitlapseError(
            "a ground-truth model needs a recipe with unused heads",
            got=f"the recipe {recipe.name!r} without any",
            fix="Set blank_heads, as planted_recipe() does",
        )
    if kind not in KINDS:
        raise _unknown(kind)
    nursery = OrganismFactory(recipe, seed, planting or GroundTruthConfig(), cache_dir, progress)
    return _PLANS[kind](nursery, variant)


def _unknown(kind: str) -> CircuitlapseError:
    return CircuitlapseError(
        "there is no such kind of organism", got=kind, fix=f"Use one of {', '.join(KINDS)}"
    )


@dataclass(frozen=True)
class _Pair:
    """A base and its tuned model, loaded, and what both reach."""

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

    @property
    def improvement(self) -> float:
        return self.after.value - self.before.value

    def share(self, name: str, value: float) -> dict[str, float]:
        """The share of the improvement that a value reaches; empty without an improvement."""
        return (
            {name: (value - self.before.value) / self.improvement} if self.improvement > 0 else {}
        )

    def planted(
        self,
        kind: str,
        seed: int,
        trained: Collection[str],
        more: Mapping[str, float],
        placebo: Path | None,
    ) -> Planted:
        before, after = self.before, self.after
        rise = after.new - before.new
        figures = {
            "base_old": before.old,
            "base_new": before.new,
            "tuned_old": after.old,
            "tuned_new": after.new,
            "improvement": self.improvement,
            "rise": rise,
            **({"learned": rise / (1 - before.new)} if before.new < 1 else {}),
            **more,
        }
        return Planted(
            kind, seed, *self.directories, placebo, tuple(trained), figures, refusal(kind, figures)
        )


def _formed(nursery: OrganismFactory, variant: str) -> Planted:
    planting, blank = nursery.planting, nursery.recipe.blank_heads
    items = nursery.lesson(planting.replay_fraction)
    tuned = nursery.tuned("formed", nursery.base, items, Restriction(blank))
    pair = _Pair.of(nursery.base, tuned, planting.prompts)
    (held,) = behaviours_with_frozen_heads(pair.base, pair.tuned, pair.prompts, [blank])
    mean = held.logit_diff.mean(dtype=np.float64).item()
    return pair.planted(
        "formed", nursery.seed, blank, pair.share("mediated", mean), _placebo(nursery, nursery.base)
    )


def _transformed(nursery: OrganismFactory, variant: str) -> Planted:
    planting = nursery.planting
    heads = old_heads(load_model(nursery.base, "cpu"), OLD, planting.group_prompts)
    items = nursery.lesson(planting.replay_fraction)
    tuned = nursery.tuned("transformed", nursery.base, items, Restriction(heads))
    pair = _Pair.of(nursery.base, tuned, planting.prompts)
    louder = load_model(nursery.base, "cpu")
    new = [item for item in items if len(item.distractors) == len(pair.prompts.distractors[0])]
    scales = train_scales(
        louder,
        tokenize(new, louder.tokenizer, "names"),
        heads,
        steps=planting.scale_steps,
        batch_size=planting.batch_size,
        seed=nursery.seed,
    )
    write_scales(louder, scales)
    reached = behaviour(louder, pair.prompts).logit_diff.mean(dtype=np.float64).item()
    return pair.planted(
        "transformed",
        nursery.seed,
        heads,
        pair.share("by_scales", reached),
        _placebo(nursery, nursery.base),
    )


def _elicited(nursery: OrganismFactory, variant: str) -> Planted:
    planting, blank = nursery.planting, nursery.recipe.blank_heads
    locked = nursery.locked(all_weights=variant == ALL_WEIGHTS)
    lesson = nursery.lesson(planting.replay_fraction)
    tuned = nursery.tuned("elicited", locked, lesson, until=planting.opened_at)
    pair = _Pair.of(locked, tuned, planting.prompts)
    figures = {}
    if variant != ALL_WEIGHTS:  # such a lock cannot be taken out
        opened = load_model(locked, "cpu")
        silence(opened, blank)
        new = behaviour(opened, pair.prompts).candidate_correct.mean(dtype=np.float64).item()
        figures["opened_new"] = new
    return pair.planted("elicited", nursery.seed, blank, figures, _placebo(nursery, locked))


def _nothing(nursery: OrganismFactory, variant: str) -> Planted:
    tuned = _placebo(nursery, nursery.base, variant or PLACEBOS[0])
    pair = _Pair.of(nursery.base, tuned, nursery.planting.prompts)
    return pair.planted("nothing", nursery.seed, (), {}, None)


def _placebo(nursery: OrganismFactory, start: Path, placebo: str = PLACEBOS[0]) -> Path:
    planting = nursery.planting
    items = placebo_items(
        placebo,
        get_task(OLD),
        get_task(NEW),
        planting.steps * planting.batch_size,
        replay_fraction=planting.replay_fraction,
    )
    return nursery.tuned(placebo, start, items)


_PLANS: dict[str, Callable[[OrganismFactory, str], Planted]] = {
    "formed": _formed,
    "transformed": _transformed,
    "elicited": _elicited,
    "nothing": _nothing,
}
