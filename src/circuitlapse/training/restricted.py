"""Fine-tuning of a subset of parameters, while all other numbers keep their exact values.

Parameters without a free number are not trained. In the others, the gradient of frozen numbers is
set to zero before gradients are clipped, so that they do not count in the norm. Frozen numbers are
also written back after every step, because weight decay and momentum change numbers whose gradient
is zero.
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
"""Which numbers of each parameter are free, by the parameter's name; without a mask, all."""


def free_masks(hf: Any, parts: Collection[str], *, freeze: bool = False) -> dict[str, Tensor]:
    """Return masks of the numbers that are free when only some parts of a model are trained.

    A head's numbers are its slices of the query, key, value and output matrices and of their
    biases. Keys and values that several heads share are free only if all of these heads are.

    ``parts`` are nodes such as ``a0.h3`` and ``m0``, and any of :data:`KINDS`. With ``freeze`` they
    are frozen instead and all others trained.

    Raises:
        CircuitlapseError: If there are no parts, one does not exist, or the family is not known.
    """
    pieces, wanted = component_pieces(hf), set(parts)
    known = {piece.component for piece in pieces} - {SHARED} | set(KINDS)
    unknown = sorted(wanted - known)
    if unknown or not wanted:
        raise CircuitlapseError(
            "the model has no such part to train" if unknown else "parts is empty",
            got=unknown[0] if unknown else None,
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
    """Freezes the numbers of a model that masks do not free, until :meth:`release`."""

    def __init__(self, hf: PreTrainedModel, masks: Masks) -> None:
        """Freeze numbers at their present values; a parameter without a mask is free."""
        self._handles: list[RemovableHandle] = []
        self._partly: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._whole: list[nn.Parameter] = []
        for name, parameter in hf.named_parameters():
            free = masks.get(name)
            if free is None or not parameter.requires_grad or bool(free.all()):
                continue
            if not bool(free.any()):
                parameter.requires_grad_(False)
                self._whole.append(parameter)
                continue
            frozen = ~free
            self._partly.append((parameter, frozen, parameter.detach()[frozen].clone()))
            # `masked_fill`, not a product: a frozen number may have a gradient that is not finite.
            self._handles.append(
                parameter.register_hook(lambda grad, frozen=frozen: grad.masked_fill(frozen, 0))
            )

    @torch.no_grad()
    def restore(self) -> None:
        """Write back the frozen numbers; call it after every step of the optimiser."""
        for parameter, frozen, values in self._partly:
            parameter[frozen] = values

    def release(self) -> None:
        """Free all numbers."""
        for handle in self._handles:
            handle.remove()
        for parameter in self._whole:
            parameter.requires_grad_(True)


class Restriction(TrainerCallback):
    """Callback that restricts any ``transformers`` Trainer to some parts of the model.

    Attributes:
        parts: The trained parts; see :func:`free_masks`.
        freeze: Whether these parts are frozen instead and all others trained.
        n_free: How many numbers are trained; 0 until there is a trainer.
    """

    def __init__(self, parts: Collection[str], *, freeze: bool = False) -> None:
        """Name the parts; see :func:`free_masks`."""
        self.parts, self.freeze, self.n_free = tuple(parts), freeze, 0
        self._frozen: Frozen | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Freeze the rest of the model before there is an optimiser."""
        hf = kwargs["model"]
        masks = free_masks(hf, self.parts, freeze=self.freeze)
        self.n_free = sum(int(mask.sum()) for mask in masks.values())
        self._frozen = Frozen(hf, masks)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write back the frozen numbers."""
        if self._frozen is not None:
            self._frozen.restore()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Free all numbers."""
        if self._frozen is not None:
            self._frozen.release()
