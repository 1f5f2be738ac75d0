"""Elicited: how far the base gets with its own components only rescaled.

An ability that was there and hidden needs no new computation: it needs what the base already
computes, scaled up or down. So every head and MLP of M0 gets one number that its output is
multiplied by, fitted to what the same component puts out in M1 as far as it is read. The target is
M1's output; what is right comes in only through what is read:

    g_c = argmin over g of  sum over prompts, positions and r of (r · (a_c(M1) - g b_c))^2

where a_c is what the component adds to the residual stream in M1 (a head through W_O, without the
bias that all heads share; an MLP with its bias) and b_c what it adds, ungained, in M0 *with the
scales of everything before it already applied*. r is what comes of it: the gradient of the logit
difference with respect to what is added there, on the same prompt, in the models on the way from M0
to M1: these two, and the rescaled M0 between them. Most of what a component adds is read by nothing
that bears on the answer, and a fit to all of it is a fit to that. Since rescaled M0 depends on the
scales, they are fitted three times: first without it, then with that of the fit before.

Layers are fitted in turn: if all were fitted at once on M0's own activations, the scales of one
layer would shift the inputs of the next away from those that their scales were fitted for. Each g_c
is the closed form <r·a_c, r·b_c> / <r·b_c, r·b_c>; where it must not be negative, the larger of
that and 0. A component that adds nothing which is read keeps 1. In the last layer the positions are
those where logits are read, since nothing else of it is used.

As all prompts go through the layers together, what is read of every layer is kept for all of them:
2 x layers x d_model numbers per token and reading model, 1.7 GB for 256 prompts of 30 tokens in a
model of GPT-2's size. Where the gradients behind them run out of memory, a batch is halved.

The *elicited share* is (v(rescaled M0) - v(M0)) / G, on prompts that the scales were not fitted on.
docs/results/calibration.md has what other fits reached on organisms whose answer is known.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuitlapse.models.engine.batches import each_group, max_batch_rows
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.output_scales import rescaled_decoder
from circuitlapse.models.engine.shared_prefix import checked
from circuitlapse.models.engine.weights import component_pieces
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.metrics import logit_difference
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float
from circuitlapse.two_models.hooked_forward import check_same_architecture

# The first is without the rescaled base, which is itself fitted in turn.
_ROUNDS = 3
_PARTS = ("attn_out", "mlp_out")


@dataclass(frozen=True, eq=False)
class OutputScales:
    """One number per component that its output is multiplied by.

    Attributes:
        graph: The models' graph.
        nodes: Scales in the order of ``graph.nodes``.
        fit: Per component, the share of what is read of it in M1 that the rescaled one reproduces,
            1 - |r·(a - g b)|² / |r·a|²: 1 where M1's component is M0's with a scale. NaN where M1's
            adds nothing that is read.
    """

    graph: Graph
    nodes: Float[Tensor, " nodes"]
    fit: Float[Tensor, " nodes"]

    def of(self, node: str) -> float:
        """The scale of a head or MLP, such as ``a0.h3`` or ``m1``."""
        return float(self.nodes[self.graph.nodes.index(node)])


class ScaleFits:
    """Fits of scales to the same models on the same prompts; what the two read is found once."""

    def __init__(
        self, base: Model, tuned: Model, pairs: PromptPairs, batch_size: int | None = None
    ) -> None:
        """Check what is to be fitted.

        Args:
            base: M0.
            tuned: M1, of the same architecture and vocabulary.
            pairs: Validation prompts of the new task, of which the clean ones are run.
            batch_size: Prompts per batch.

        Raises:
            CircuitlapseError: If the models differ in architecture, or cannot run the prompts.
        """
        check_same_architecture(base, tuned)
        self._base, self._tuned, self._batch_size = base, tuned, batch_size
        self._pairs = checked(base.decoder, pairs)
        # Every head's output in both models, in double precision too, and what gradients keep.
        # Asked once: what is kept from round to round must not make other batches of the prompts.
        floats = base.decoder.d_model * (8 * (base.graph.n_heads + 1) + 24 * base.graph.n_layers)
        self._most = max_batch_rows(base.device, base.decoder.W_E.itemsize * floats)
        self._batches: dict[tuple[int, ...], _Batch] = {}
        # The free fit, where nothing was turned round in any round: it is the other one, too.
        self._both: OutputScales | None = None

    @torch.no_grad()
    def fit(self, *, non_negative: bool = False) -> OutputScales:
        """Fit one scale per head and MLP of the base to the tuned model's component outputs.

        Args:
            non_negative: Whether to keep scales from turning a component round.
        """
        if self._both is not None:
            return self._both
        decoder = self._base.decoder
        scale, fit = self._round(None, non_negative)
        turned = bool((scale < 0).any())
        for _ in range(_ROUNDS - 1):
            scale, fit = self._round(rescaled_decoder(decoder, scale.to(decoder.W_E)), non_negative)
            turned |= bool((scale < 0).any())
        scales = OutputScales(self._base.graph, scale.float().cpu(), fit.float().cpu())
        if not non_negative and not turned:
            self._both = scales
        return scales

    def _round(self, between: Decoder | None, non_negative: bool) -> tuple[Tensor, Tensor]:
        base, pairs = self._base, self._pairs
        running: dict[tuple[int, ...], _Batch] = {}

        def start(rows: Tensor) -> None:
            # Taken out until it is ready: where memory runs out, what it held is given back.
            key = tuple(rows.tolist())
            batch = self._batches.pop(key, None) or _Batch(
                base.decoder, self._tuned.decoder, pairs[rows].trimmed()
            )
            batch.start(between)
            running[key] = batch

        starts = torch.zeros_like(pairs.lengths)
        each_group(
            start, pairs.logit_positions().amax(dim=1) + 1, starts, self._most, self._batch_size
        )
        self._batches = running
        return _fitted(list(running.values()), non_negative)


def _fitted(
    running: Sequence["_Batch"], non_negative: bool
) -> tuple[Float[Tensor, " nodes"], Float[Tensor, " nodes"]]:
    """Fit all scales once, layer by layer; return them and the share of output they reproduce."""
    scales, fits = [], []
    for layer in range(running[0].decoders[0].n_layers):
        for part in ("heads", "mlp"):
            products = torch.stack([getattr(batch, part)(layer) for batch in running]).sum(dim=0)
            scale, fit = _least_squares(products, non_negative)
            for batch in running:
                batch.turn(layer, part, scale)
            scales.append(scale)
            fits.append(fit)
    return torch.cat(scales), torch.cat(fits)


def rescaled(base: Model, scales: OutputScales | Mapping[str, float]) -> Model:
    """Return a copy of the base whose components' outputs are multiplied by their scales, by node.

    The scales go into the output weights (a head's W_O; an MLP's output matrix and bias), so that
    the copy is a model like any other: everything can be measured on it, and grafted into it.
    """
    hf: Any = copy.deepcopy(base.hf)
    parameters = dict(hf.named_parameters())
    if isinstance(scales, OutputScales):
        scales = dict(zip(scales.graph.nodes, scales.nodes.tolist(), strict=True))
    with torch.no_grad():
        for piece in component_pieces(hf):
            if piece.slot == "o":
                parameters[piece.parameter][piece.index] *= scales[piece.component]
    return load_model(hf, dtype=base.decoder.W_E.dtype)


def _least_squares(
    products: Float[Tensor, "3 components"], non_negative: bool
) -> tuple[Float[Tensor, " components"], Float[Tensor, " components"]]:
    """Scales and how much of the output they reproduce, from <a, b>, <b, b> and <a, a>."""
    both, ours, theirs = products
    scale = torch.where(ours > 0, both / ours, 1.0)
    if non_negative:
        scale = scale.clamp(min=0.0)
    left = theirs - 2 * scale * both + scale.square() * ours
    return scale, 1 - left / theirs


class _Batch:
    """One batch, run through both models, the base with the scales found so far.

    What the two models read is found once; what rescaled M0 reads, at every start.
    """

    def __init__(self, base: Decoder, tuned: Decoder, pairs: PromptPairs) -> None:
        self.context, self._pairs = Context(pairs.logit_positions()), pairs
        self.decoders = (base, tuned)
        self.streams: list[Tensor] = []
        self.z: list[Tensor] = []
        self.out: list[Tensor] = []
        self.mid: list[Tensor] = []
        self._all_read: dict[str, list[Tensor]] = {}
        self.read: dict[str, list[Tensor]] = {}
        for number, decoder in enumerate(self.decoders):
            self._put(number, decoder)

    def start(self, between: Decoder | None) -> None:
        """Begin at the first layer, with what rescaled M0 reads where there is one."""
        self.streams = [decoder.embed(self._pairs.clean) for decoder in self.decoders]
        readers = len(self.decoders)
        if between is not None:
            self._put(readers, between)
            readers += 1
        self.read = {
            part: [layer[:readers] for layer in layers] for part, layers in self._all_read.items()
        }

    def _put(self, number: int, reader: Decoder) -> None:
        for part, layers in _what_is_read(reader, self._pairs, self.context).items():
            if part not in self._all_read:
                # Room for all readers, rescaled M0 behind the two models.
                readers = len(self.decoders) + 1
                self._all_read[part] = [each.new_empty(readers, *each.shape) for each in layers]
            for kept, found in zip(self._all_read[part], layers, strict=True):
                kept[number] = found

    def heads(self, layer: int) -> Float[Tensor, "3 heads"]:
        """Run both attentions and return the heads' products."""
        self.z, read = [], []
        for index, decoder in enumerate(self.decoders):
            x = self.streams[index]
            q, k, v = decoder.attention[layer].project(x)
            q, stream = (decoder.to_queries(layer, each, self.context) for each in (q, x))
            z = decoder.attend(layer, q, k, v, self.context)
            self.streams[index] = stream
            self.z.append(z)
            weight = decoder.attention[layer].W_O
            back = torch.einsum("rbpd,hkd->rbphk", self.read["attn_out"][layer], weight)
            read.append((z.double() * back.double()).sum(dim=-1))
        return _products(*read)

    def mlp(self, layer: int) -> Float[Tensor, "3 1"]:
        """Run both MLPs and return their products."""
        self.out = [
            decoder.mlp[layer](stream if decoder.parallel else mid)
            for decoder, stream, mid in zip(self.decoders, self.streams, self.mid, strict=True)
        ]
        back = self.read["mlp_out"][layer].double()
        return _products(*((out.double() * back).sum(dim=-1, keepdim=True) for out in self.out))

    def turn(self, layer: int, part: str, scale: Tensor) -> None:
        """Go on with the scales of one part of a layer, which the tuned model does not have."""
        factors = (
            scale.to(self.streams[0].dtype),
            scale.new_ones(len(scale)).to(self.streams[1].dtype),
        )
        if part == "heads":
            self.mid = [
                stream + decoder.attention_out(layer, z * factor[:, None])
                for decoder, stream, z, factor in zip(
                    self.decoders, self.streams, self.z, factors, strict=True
                )
            ]
        else:
            self.streams = [
                mid + out * factor
                for mid, out, factor in zip(self.mid, self.out, factors, strict=True)
            ]


def _what_is_read(
    reader: Decoder, pairs: PromptPairs, context: Context
) -> dict[str, Sequence[Float[Tensor, "batch _ d_model"]]]:
    """Gradients of a model's logit difference by what each layer's attention and MLP add.

    In the last layer they are those where logits are read. They are zero behind a prompt's end.
    """
    with torch.enable_grad():
        steps = reader.trace(reader.embed(pairs.clean).requires_grad_(), context)
        logits = reader.logits(steps[-1].resid_post)[:, 0].float()
        metric = logit_difference(logits, pairs.right(), pairs.distractors).sum()
        added = [getattr(step, part) for part in _PARTS for step in steps]
        found = torch.autograd.grad(metric, added)
    return {
        part: found[number * len(steps) : (number + 1) * len(steps)]
        for number, part in enumerate(_PARTS)
    }


def _products(
    ours: Float[Tensor, "readers batch pos components"],
    theirs: Float[Tensor, "readers batch pos components"],
) -> Float[Tensor, "3 components"]:
    """Sum <a, b>, <b, b> and <a, a> over readers and tokens."""
    pairs = ((theirs, ours), (ours, ours), (theirs, theirs))
    return torch.stack([(a * b).sum(dim=(0, 1, 2)) for a, b in pairs])
