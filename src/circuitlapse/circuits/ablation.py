"""What an edge outside a circuit carries, and the run in which every edge carries that.

- ``corrupt``: the writer's output on the corrupt prompt, MIB's choice (Mueller et al. 2025).
- ``mean``: the writer's mean output over a reference set of prompts at the same place, as in Wang
  et al. (2022), who take prompts of the same template with other names. EAP-IG's positional mean
  (Hanna et al. 2024) counts places from the left; with prompts of different lengths the last token
  of one would be averaged with the middle of others. Here a place is how many tokens it is behind
  the last landmark: the prompt's start, a named position, or its last token. Where all prompts are
  equally long and names stand at the same index in each, both are the same.
- ``zero``: nothing.

The attention's output biases belong to no writer and are never ablated. With ``mean`` and ``zero``
it matters that circuits hold no dangling edges: a node without an edge into it would still compute
something from the ablated stream, and not what ablation puts in its place.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.context import at_reads
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Bool, Float, Int

Ablation = Literal["corrupt", "mean", "zero"]

_BEHIND = 2**32  # more than any offset, so that landmark and offset fit one integer


@dataclass(frozen=True)
class MeanOutputs:
    """Mean output of every writer at every place of a reference set.

    Attributes:
        names: Named positions that serve as landmarks, sorted.
        places: The places, sorted.
        embedding: Of the input.
        z: Of the heads, before W_O, layer by layer.
        mlp_out: Of the MLPs, layer by layer.
    """

    names: tuple[str, ...]
    places: Int[Tensor, " places"]
    embedding: Float[Tensor, "places d_model"]
    z: tuple[Float[Tensor, "places heads d_head"], ...]
    mlp_out: tuple[Float[Tensor, "places d_model"], ...]

    def rows(self, pairs: PromptPairs, width: int) -> Int[Tensor, "prompts width"]:
        """Say which row holds the mean for each column; any row, where there is only padding.

        Raises:
            CircuitlapseError: If the reference has no prompt with such a place.
        """
        places = _places(pairs, self.names, width)
        rows = torch.searchsorted(self.places, places).clamp(max=len(self.places) - 1)
        missing = ((self.places[rows] != places) & _real(pairs, width)).nonzero()
        if len(missing):
            prompt, column = missing[0].tolist()
            landmark, offset = divmod(int(places[prompt, column]), _BEHIND)
            name = ("the start", *self.names, "the last token")[landmark]
            raise CircuitlapseError(
                f"no prompt of the reference has a token {offset} behind {name}",
                got=f"token {column} of a prompt",
                fix="Give a reference of the same templates, or none to take the corrupt prompts",
            )
        return rows


def check_ablation(ablation: Ablation, reference: PromptPairs | None) -> None:
    """Say why there is no such ablation.

    Raises:
        CircuitlapseError: If the name is unknown, or a reference is given where it has no use.
    """
    if ablation not in get_args(Ablation):
        raise CircuitlapseError(
            "there is no such ablation",
            got=ablation,
            fix=f"Use one of {', '.join(get_args(Ablation))}",
        )
    if reference is not None and ablation != "mean":
        raise CircuitlapseError(
            "a reference is what ablation='mean' averages over",
            got=f"one with ablation={ablation!r}",
            fix="Leave it out",
        )


def mean_outputs(
    decoder: Decoder, pairs: PromptPairs, reference: PromptPairs | None, batch_size: int | None
) -> MeanOutputs:
    """Average what every writer puts out on the corrupt prompts of the reference.

    Args:
        decoder: The model.
        pairs: What circuits will be run on.
        reference: Pairs whose corrupt prompts to average over; None for those of ``pairs``. Named
            positions are landmarks where both have them.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.
    """
    reference = pairs if reference is None else reference
    names = tuple(sorted({*pairs.positions} & {*reference.positions}))
    reference = reference.trimmed().to(decoder.W_E.device)
    width = reference.clean.shape[1]
    places, counts = _places(reference, names, width)[_real(reference, width)].unique(
        return_counts=True
    )

    def nothing(*shape: int) -> Tensor:
        return torch.zeros(len(places), *shape, dtype=torch.float64, device=places.device)

    d_model, layers = decoder.d_model, decoder.attention
    sums = [nothing(d_model)]
    sums += [nothing(*block.W_O.shape[:2]) for block in layers]
    sums += [nothing(d_model) for _ in layers]

    def work(batch: Suffixes) -> list[Tensor]:
        columns = batch.corrupt.shape[1]
        real = _real(batch.pairs, columns)
        rows = torch.searchsorted(places, _places(batch.pairs, names, columns)[real])
        steps = decoder.trace(batch.corrupt, batch.everywhere())
        outputs = [batch.corrupt, *(step.z for step in steps), *(step.mlp_out for step in steps)]
        added = []
        for output, total in zip(outputs, sums, strict=True):
            values = output[real].double()
            added.append(torch.zeros_like(total).index_add_(0, rows, values))
        return added

    def keep(_: Tensor, added: list[Tensor]) -> None:
        for total, more in zip(sums, added, strict=True):
            total += more

    floats_per_token = decoder.d_model * 14 * decoder.n_layers
    # The metric is not computed; this one needs no distractors.
    each_batch(
        decoder,
        reference,
        floats_per_token,
        work,
        keep=keep,
        metric="log_prob",
        batch_size=batch_size,
        whole=True,
    )

    embedding, *rest = [
        (total / counts.view(-1, *[1] * (total.ndim - 1))).to(decoder.W_E.dtype) for total in sums
    ]
    n = decoder.n_layers
    return MeanOutputs(names, places, embedding, tuple(rest[:n]), tuple(rest[n:]))


def ablated_run(
    decoder: Decoder, batch: Suffixes, ablation: Ablation, means: MeanOutputs | None
) -> list[Step]:
    """What every block holds when every edge is ablated: the run of the empty circuit.

    Each writer puts out what ablation gives it, and the readers see the sums of that. Only for
    ``corrupt`` is that a run of the model.

    Args:
        decoder: The model.
        batch: Whole prompts, but for ``corrupt``.
        ablation: What the edges carry.
        means: For ``mean`` only.
    """
    if ablation == "corrupt":
        return decoder.trace(batch.corrupt, batch.context)
    if means is None:
        x = torch.zeros_like(batch.corrupt)
        rows = None
    else:
        rows = means.rows(batch.pairs, batch.corrupt.shape[1])
        x = means.embedding[rows]
    steps = []
    for layer in range(decoder.n_layers):
        block = decoder.attention[layer]
        q, k, v = block.project(x)
        stream = x
        if decoder.is_last(layer):
            stream = at_reads(x, batch.context)
            rows = None if rows is None else at_reads(rows, batch.context)
        if means is None or rows is None:
            z = stream.new_zeros(*stream.shape[:2], *block.W_O.shape[:2])
            out = torch.zeros_like(stream)
        else:
            z, out = means.z[layer][rows], means.mlp_out[layer][rows]
        added = decoder.attention_out(layer, z)
        after = stream + added
        mid = stream if decoder.parallel else after
        steps.append(Step(x, q, k, v, z, added, mid, out, after + out))
        x = steps[-1].resid_post
    return steps


def _places(pairs: PromptPairs, names: tuple[str, ...], width: int) -> Int[Tensor, "prompts width"]:
    """Number every column by its last landmark and how far behind that it is."""
    last = pairs.lengths - 1
    landmarks = torch.stack(
        [torch.zeros_like(last), *[pairs.positions[name] for name in names], last]
    )
    columns = torch.arange(width, device=last.device)
    passed = landmarks[:, :, None] <= columns
    # The rightmost landmark passed; of several on one token, the last in the list.
    rank = (landmarks * len(landmarks)).add(
        torch.arange(len(landmarks), device=last.device)[:, None]
    )
    best = torch.where(passed, rank[:, :, None], -1).amax(dim=0)
    which, where = best % len(landmarks), best // len(landmarks)
    return which * _BEHIND + columns - where


def _real(pairs: PromptPairs, width: int) -> Bool[Tensor, "prompts width"]:
    """Which columns are tokens that something may read."""
    ends = pairs.reads().amax(dim=1, keepdim=True)
    return torch.arange(width, device=ends.device) <= ends
