"""Training only some parts of a model, while every other number stays bit for bit what it was.

What a fine-tune changed can only be blamed on a part if nothing else could move. Parameters without
a free number are not trained at all. Of the others the gradient of what is held is zero before
gradients are clipped, so that only the free part counts in their norm; and what is held is written
back after every step, since weight decay, or a momentum from elsewhere, moves numbers whose
gradient is zero. So it holds whatever the optimiser.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, TrainerCallback

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.weights import SHARED, component_pieces

KINDS = ("embeddings", "norms", "biases")
"""Parts that are no node: token and position embeddings with the unembedding; the weights and
biases of normalisations; all biases, those of heads, MLPs and normalisations among them."""

Masks = Mapping[str, Tensor]
"""Which numbers of each parameter are free, by the parameter's name; all of those not named."""


def free_masks(hf: Any, parts: Collection[str], *, freeze: bool = False) -> dict[str, Tensor]:
    """Find the numbers of a model that are free when only some of its parts are trained.

    A head's numbers are its slices of the query, key, value and output matrices and of their
    biases. Keys and values that several heads share are free only if all of these heads are:
    otherwise training them would change a head that is held.

    Args:
        hf: A ``transformers`` model; only names and shapes of its parameters are read.
        parts: Nodes such as ``a0.h3`` and ``m0``, and any of :data:`KINDS`.
        freeze: Free everything but these parts.

    Returns:
        A boolean mask per parameter, in its shape and on its device.

    Raises:
        CircuitlapseError: If there are no parts, one does not exist, or the family is not known.
    """
    pieces, wanted = component_pieces(hf), set(parts)
    known = {piece.component for piece in pieces} - {SHARED} | set(KINDS)
    unknown = sorted(wanted - known)
    if unknown or not wanted:
        raise CircuitlapseError(
            "the model has no such part to train" if unknown else "no part to train is named",
            got=unknown[0] if unknown else "nothing",
            fix=f"Name heads like a0.h3, MLPs like m0, or any of {', '.join(KINDS)}",
        )
    parameters = dict(hf.named_parameters())
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in parameters.items()}
    enough = any if freeze else all
    for piece in pieces:
        owners = piece.sharers or (piece.component,)
        if enough(owner in wanted for owner in owners):
            masks[piece.parameter][piece.index] = True
    for name in _of_kinds(hf, wanted):
        masks[name][:] = True
    return {name: ~mask for name, mask in masks.items()} if freeze else masks


def _of_kinds(hf: Any, kinds: Collection[str]) -> set[str]:
    names = {parameter: name for name, parameter in hf.named_parameters()}
    chosen: set[str] = set()
    if "embeddings" in kinds:
        tables = [module for module in hf.modules() if isinstance(module, nn.Embedding)]
        ends = [*tables, hf.get_output_embeddings()]
        chosen |= {names[p] for module in ends if module is not None for p in module.parameters()}
    if "norms" in kinds:
        norms = [m for m in hf.modules() if type(m).__name__.endswith("Norm")]
        chosen |= {names[p] for module in norms for p in module.parameters()}
    if "biases" in kinds:
        chosen |= {name for name in names.values() if name.endswith(".bias")}
    return chosen


class Frozen:
    """A model of which only some numbers can be trained; undone by :meth:`release`."""

    def __init__(self, hf: PreTrainedModel, masks: Masks) -> None:
        """Hold everything that the masks do not free, at what it is now.

        Args:
            hf: The model that will be trained.
            masks: From :func:`free_masks`; a parameter without a mask is free.
        """
        self._handles: list[RemovableHandle] = []
        self._partly: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._frozen: list[nn.Parameter] = []
        for name, parameter in hf.named_parameters():
            free = masks.get(name)
            if free is None or not parameter.requires_grad or bool(free.all()):
                continue
            if not bool(free.any()):
                parameter.requires_grad_(False)
                self._frozen.append(parameter)
                continue
            held = ~free
            self._partly.append((parameter, held, parameter.detach()[held].clone()))
            # `masked_fill`, not a product: what is held may have a gradient that is not finite.
            self._handles.append(
                parameter.register_hook(lambda gradient, held=held: gradient.masked_fill(held, 0))
            )

    @torch.no_grad()
    def restore(self) -> None:
        """Write back what is held; to be called after every step of the optimiser."""
        for parameter, held, values in self._partly:
            parameter[held] = values

    def release(self) -> None:
        """Let everything be trained again."""
        for handle in self._handles:
            handle.remove()
        for parameter in self._frozen:
            parameter.requires_grad_(True)


class Restriction(TrainerCallback):
    """Restrict any ``transformers`` Trainer to some parts of the model: one of its callbacks.

    It acts as soon as the trainer is made, before there is an optimiser.

    Attributes:
        parts: What is trained, or held; see :func:`free_masks`.
        freeze: Whether it is these parts that are held.
        n_free: How many numbers are trained; 0 until there is a trainer.
    """

    def __init__(self, parts: Collection[str], *, freeze: bool = False) -> None:
        """Name the parts.

        Args:
            parts: What to train; see :func:`free_masks`.
            freeze: Train everything else instead, and hold these parts.
        """
        self.parts, self.freeze, self.n_free = tuple(parts), freeze, 0
        self._held: Frozen | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold the rest of the model before there is an optimiser."""
        hf = kwargs["model"]
        masks = free_masks(hf, self.parts, freeze=self.freeze)
        self.n_free = sum(int(mask.sum()) for mask in masks.values())
        self._held = Frozen(hf, masks)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write back what is held."""
        if self._held is not None:
            self._held.restore()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let everything be trained again."""
        if self._held is not None:
            self._held.release()
