"""The logit lens, direct logit attribution and attention between positions, from one run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.decoder import Step
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.reading.attention import places_of, weights_at
from circuitlapse.reading.direct import DirectAttribution, contributions
from circuitlapse.reading.lens import lens_of
from circuitlapse.reading.whole import each_whole_batch, run_layers, whole
from circuitlapse.shapes import Float


@dataclass(frozen=True, eq=False)
class Readings:
    """Logit lens, direct logit attribution and the weights of :func:`attention_of_each`."""

    lens: Float[Tensor, "points prompts"]
    direct: DirectAttribution
    attention: Float[Tensor, "position_pairs layers heads prompts"]


@torch.no_grad()
def read_all(
    model: Model,
    pairs: PromptPairs,
    position_pairs: Sequence[tuple[str, str]],
    batch_size: int | None = None,
) -> Readings:
    """Measure all three on the clean prompts in one run.

    Raises:
        CircuitlapseError: As each of the three does.
    """
    decoder, graph = model.decoder, model.graph
    pairs = whole(decoder, pairs)
    places = places_of(pairs, position_pairs)
    lens = torch.empty(decoder.n_layers + 1, len(pairs))
    direct = torch.empty(len(graph.writers) + 1, len(pairs))
    attention = torch.empty(len(position_pairs), decoder.n_layers, decoder.n_heads, len(pairs))

    def work(batch: Suffixes) -> tuple[Tensor, Tensor, Tensor]:
        seen = list[Tensor]()

        def hook(layer: int, step: Step, context: Context) -> None:
            pattern = decoder.pattern(layer, step.q, step.k, context)
            seen.append(weights_at(pattern, batch, places))

        layers = run_layers(decoder, batch, hook)
        return (
            lens_of(decoder, batch, layers),
            contributions(decoder, batch, layers),
            torch.stack(seen, dim=1),
        )

    def keep(rows: Tensor, read: tuple[Tensor, Tensor, Tensor]) -> None:
        lens[:, rows], direct[:, rows], attention[..., rows] = read

    each_whole_batch(decoder, pairs, work, keep, batch_size, metric="logit_diff")
    return Readings(lens, DirectAttribution(graph, direct[:-1], direct[-1]), attention)
