"""Rescaled base: output scales of the base's own components, fitted to the tuned model.

A suppressed ability needs no new computation, only components that the base already has, scaled up
or down. So the output of every head and MLP of M0 is multiplied by one number, fitted to the output
of the same component in M1, in the directions that affect the answer:

    g_c = argmin over g of  sum over prompts, positions and r of (r · (a_c(M1) - g b_c))^2

Here a_c is the component's output in M1 (a head through W_O, without the bias that all heads share;
an MLP with its bias). b_c is its unscaled output in M0 *with the scales of all earlier components
applied*. r is the gradient of the logit difference with respect to that output, on the same prompt,
in M0, M1 and the rescaled M0 between them. Most of an output does not affect the answer, and a fit
to all of it would be a fit to that part. Since rescaled M0 depends on the scales, they are fitted
three times: first without it, then with that of the previous fit.

Layers are fitted one after the other. A joint fit on M0's own activations would shift the inputs of
each layer away from those that its scales were fitted for. Each g_c is the closed form
<r·a_c, r·b_c> / <r·b_c, r·b_c>, or at least 0 if it must not be negative. A component whose output
does not affect the answer keeps 1. In the last layer only positions that need logits count.

All prompts go through the layers together, so the gradients of all layers are kept for all prompts:
2 x layers x d_model numbers per token and model, 1.7 GB for 256 prompts of 30 tokens in a model of
GPT-2's size. The batch size is halved after an out-of-memory error.

The *elicited share* is (v(rescaled M0) - v(M0)) / G, on prompts that the scales were not fitted on.
docs/results/calibration.md compares other fits on organisms with known ground truth.
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

# The first is without the rescaled base, which the later ones fit again.
_ROUNDS = 3
_PARTS = ("attn_out", "mlp_out")


@dataclass(frozen=True, eq=False)
class OutputScales:
    """One scale per component, a factor on its output.

    Attributes:
        graph: The models' graph.
        nodes: Scales in the order of ``graph.nodes``.
        fit: Per component, the share of its output in M1, in the directions that affect the answer,
            that the rescaled one reproduces, 1 - |r·(a - g b)|² / |r·a|²: 1 where M1's component is
            M0's with a scale. NaN where M1's does not affect the answer.
    """

    graph: Graph
    nodes: Float[Tensor, " nodes"]
    fit: Float[Tensor, " nodes"]

    def of(self, node: str) -> float:
        """The scale of a head or MLP, such as ``a0.h3`` or ``m1``."""
        return float(self.nodes[self.graph.nodes.index(node)])


class ScaleFits:
    """Fits of scales to the same models on the same prompts, whose gradients are computed once."""

    def __init__(
        self, base: Model, tuned: Model, pairs: PromptPairs, batch_size: int | None = None
    ) -> None:
        """Check the models and the prompts.

        Args:
            base: M0.
            tuned: M1, of the same architecture and vocabulary.
            pairs: Validation prompts of the new task; only the clean ones are run.
            batch_size: Prompts per batch.

        Raises:
            CircuitlapseError: If the models differ in architecture, or cannot run the prompts.
        """
        check_same_architecture(base, tuned)
        self._base, self._tuned, self._batch_size = base, tuned, batch_size
        self._pairs = checked(base.decoder, pairs)
        # Every head's output in both models, in double precision too, and what gradients keep.
        # Set once: the gradients kept between rounds must not change the batch sizes.
        floats = base.decoder.d_model * (8 * (base.graph.n_heads + 1) + 24 * base.graph.n_layers)
        self._most = max_batch_rows(base.device, base.decoder.W_E.itemsize * floats)
        self._batches: dict[tuple[int, ...], _Batch] = {}
        # The free fit, if no round had a negative scale: the non-negative fit is the same.
        self._both: OutputScales | None = None

    @torch.no_grad()
    def fit(self, *, non_negative: bool = False) -> OutputScales:
        """Fit one scale per head and MLP of the base to the tuned model's component outputs.

        With ``non_negative``, no component changes its sign.
        """
        if self._both is not None:
            return self._both
        decoder = self._base.decoder
        scale, fit = self._round(None, non_negative)
        negative = bool((scale < 0).any())
        for _ in range(_ROUNDS - 1):
            scale, fit = self._round(rescaled_decoder(decoder, scale.to(decoder.W_E)), non_negative)
            negative |= bool((scale < 0).any())
        scales = OutputScales(self._base.graph, scale.float().cpu(), fit.float().cpu())
        if not non_negative and not negative:
            self._both = scales
        return scales

    def _round(self, between: Decoder | None, non_negative: bool) -> tuple[Tensor, Tensor]:
        base, pairs = self._base, self._pairs
        running: dict[tuple[int, ...], _Batch] = {}

        def start(rows: Tensor) -> None:
            # Removed until it is ready, so that an out-of-memory error frees its memory.
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
                batch.rescale(layer, part, scale)
            scales.append(scale)
            fits.append(fit)
    return torch.cat(scales), torch.cat(fits)


def rescaled(base: Model, scales: OutputScales | Mapping[str, float]) -> Model:
    """Return a copy of the base whose components' outputs are multiplied by their scales.

    The scales go into the output weights (a head's W_O; an MLP's output matrix and bias), so the
    copy is a model like any other.
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
    """Return scales and the share of output they reproduce, from <a, b>, <b, b> and <a, a>."""
    both, ours, theirs = products
    scale = torch.where(ours > 0, both / ours, 1.0)
    if non_negative:
        scale = scale.clamp(min=0.0)
    left = theirs - 2 * scale * both + scale.square() * ours
    return scale, 1 - left / theirs


class _Batch:
    """One batch, run through both models, the base with the scales found so far.

    The two models' gradients are computed once; those of rescaled M0 at every start.
    """

    def __init__(self, base: Decoder, tuned: Decoder, pairs: PromptPairs) -> None:
        self.context, self._pairs = Context(pairs.logit_positions()), pairs
        self.decoders = (base, tuned)
        self.streams: list[Tensor] = []
        self.z: list[Tensor] = []
        self.out: list[Tensor] = []
        self.mid: list[Tensor] = []
        self._all_gradients: dict[str, list[Tensor]] = {}
        self.gradients: dict[str, list[Tensor]] = {}
        for number, decoder in enumerate(self.decoders):
            self._keep_gradients(number, decoder)

    def start(self, between: Decoder | None) -> None:
        """Start at the first layer, with the gradients of rescaled M0 if given."""
        self.streams = [decoder.embed(self._pairs.clean) for decoder in self.decoders]
        n = len(self.decoders)
        if between is not None:
            self._keep_gradients(n, between)
            n += 1
        self.gradients = {
            part: [layer[:n] for layer in layers] for part, layers in self._all_gradients.items()
        }

    def _keep_gradients(self, number: int, decoder: Decoder) -> None:
        for part, layers in _output_gradients(decoder, self._pairs, self.context).items():
            if part not in self._all_gradients:
                # Space for the two models and, after them, rescaled M0.
                n = len(self.decoders) + 1
                self._all_gradients[part] = [each.new_empty(n, *each.shape) for each in layers]
            for kept, found in zip(self._all_gradients[part], layers, strict=True):
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
            back = torch.einsum("rbpd,hkd->rbphk", self.gradients["attn_out"][layer], weight)
            read.append((z.double() * back.double()).sum(dim=-1))
        return _products(*read)

    def mlp(self, layer: int) -> Float[Tensor, "3 1"]:
        """Run both MLPs and return their products."""
        self.out = [
            decoder.mlp[layer](stream if decoder.parallel else mid)
            for decoder, stream, mid in zip(self.decoders, self.streams, self.mid, strict=True)
        ]
        back = self.gradients["mlp_out"][layer].double()
        return _products(*((out.double() * back).sum(dim=-1, keepdim=True) for out in self.out))

    def rescale(self, layer: int, part: str, scale: Tensor) -> None:
        """Apply the scales of one part of a layer to the base and continue both runs."""
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


def _output_gradients(
    decoder: Decoder, pairs: PromptPairs, context: Context
) -> dict[str, Sequence[Float[Tensor, "batch _ d_model"]]]:
    """Gradients of the logit difference at each layer's attention and MLP output.

    In the last layer they are at the positions that need logits. They are zero after the end.
    """
    with torch.enable_grad():
        steps = decoder.trace(decoder.embed(pairs.clean).requires_grad_(), context)
        logits = decoder.logits(steps[-1].resid_post)[:, 0].float()
        metric = logit_difference(logits, pairs.right(), pairs.distractors).sum()
        added = [getattr(step, part) for part in _PARTS for step in steps]
        found = torch.autograd.grad(metric, added)
    return {
        part: found[number * len(steps) : (number + 1) * len(steps)]
        for number, part in enumerate(_PARTS)
    }


def _products(
    ours: Float[Tensor, "models batch pos components"],
    theirs: Float[Tensor, "models batch pos components"],
) -> Float[Tensor, "3 components"]:
    """Sum <a, b>, <b, b> and <a, a> over models and tokens."""
    pairs = ((theirs, ours), (ours, ours), (theirs, theirs))
    return torch.stack([(a * b).sum(dim=(0, 1, 2)) for a, b in pairs])
