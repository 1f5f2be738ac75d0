"""Direct logit attribution: each component's direct contribution to the logit difference.

Elhage et al. (2021), "A mathematical framework for transformer circuits": the last residual stream
is a sum of the outputs of the embedding, the heads and the MLPs, and the logits are linear in it
once the scale of the last normalisation is frozen.
"""

from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.reading.whole import Layers, run_layers
from circuitlapse.shapes import Float


@dataclass(frozen=True, eq=False)
class DirectAttribution:
    """Contributions to the logit difference, in logits, that add up to it for every prompt.

    Attributes:
        graph: The model's graph.
        writers: Contributions of the embedding, each head and each MLP, in the order of
            ``graph.writers``. An MLP's output includes its bias, a head's the bias of its values.
        constant: Contribution of the attentions' output biases and the bias of the last
            normalisation, which belong to no source.
    """

    graph: Graph
    writers: Float[Tensor, "writers prompts"]
    constant: Float[Tensor, " prompts"]

    @property
    def total(self) -> Float[Tensor, " prompts"]:
        """The sum of everything: the model's logit difference."""
        return self.writers.sum(dim=0) + self.constant

    @property
    def input(self) -> Float[Tensor, ""]:
        """Mean contribution of the embedding."""
        return self.writers[0].mean()

    @property
    def heads(self) -> Float[Tensor, "layers heads"]:
        """Mean contribution of each head."""
        return self._by_layer()[:, :-1]

    @property
    def attentions(self) -> Float[Tensor, " layers"]:
        """Mean contribution of each layer's heads together, without the output bias."""
        return self.heads.sum(dim=1)

    @property
    def mlps(self) -> Float[Tensor, " layers"]:
        """Mean contribution of each layer's MLP."""
        return self._by_layer()[:, -1]

    def _by_layer(self) -> Float[Tensor, "layers components"]:
        return self.writers[1:].mean(dim=1).unflatten(0, (-1, self.graph.n_heads + 1))

    def to_frame(self) -> pl.DataFrame:
        """List the mean contributions as (component, value); the last one is ``constant``."""
        means = [*self.writers.mean(dim=1).tolist(), float(self.constant.mean())]
        return pl.DataFrame(
            {"component": [*self.graph.writers, "constant"], "value": means},
            schema={"component": pl.String, "value": pl.Float64},
        )


@torch.no_grad()
def direct_logit_attribution(
    model: Model, pairs: PromptPairs, batch_size: int | None = None
) -> DirectAttribution:
    """Divide the clean prompts' logit difference into each component's direct contribution.

    Every component is centred (if the last normalisation is), divided by the scale of the whole
    stream in this run, multiplied by the norm's weights, and projected on the answer's row of the
    unembedding minus the distractors' mean row.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Prompts with one-token answers and distractors; only the clean ones are used.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Raises:
        CircuitlapseError: If the model cannot run the pairs, or they have no logit difference.
    """
    decoder, graph = model.decoder, model.graph
    found = torch.empty(len(graph.writers) + 1, len(pairs))

    def work(batch: Suffixes) -> Tensor:
        return contributions(decoder, batch, run_layers(decoder, batch))

    def keep(rows: Tensor, read: Tensor) -> None:
        found[:, rows] = read

    each_batch(decoder, pairs, 16 * decoder.d_model, work, keep=keep, batch_size=batch_size)
    return DirectAttribution(graph, found[:-1], found[-1])


def contributions(
    decoder: Decoder, batch: Suffixes, layers: Layers
) -> Float[Tensor, "writers_and_constant batch"]:
    """Divide the logit difference of one run; see :func:`direct_logit_attribution`."""
    direction = batch.direction
    assert direction is not None  # the metric is the logit difference
    _, inverse = decoder.norm.standardise(layers.final[:, 0].float())
    readout = decoder.norm.folded(direction.T).T * inverse
    found = [(layers.before[0][:, 0].float() * readout).sum(dim=-1)[None]]
    fixed = readout.new_zeros(len(readout))
    for z, mlp_out, block in zip(layers.z, layers.mlp_out, decoder.attention, strict=True):
        by_head = torch.einsum("bd,hkd->bhk", readout, block.W_O.float())
        found.append((z[:, 0].float() * by_head).sum(dim=-1).T)
        found.append((mlp_out[:, 0].float() * readout).sum(dim=-1)[None])
        if block.out_bias is not None:
            fixed += readout @ block.out_bias.float()
    if decoder.norm.bias is not None:
        fixed += direction @ decoder.norm.bias.float()
    return torch.cat([*found, fixed[None]]).cpu()
