"""Ablation of the edges that are not in a circuit.

- ``corrupt``: resample ablation, the source's output on the corrupt prompt (MIB, Mueller et al.
  2025).
- ``mean``: the source's mean output over a reference set of prompts at the aligned position, as in
  Wang et al. (2022), who take prompts of the same template with other names. EAP-IG's positional
  mean (Hanna et al. 2024) aligns positions from the start of the prompt. Here a token position is
  aligned to the last landmark before it: the prompt's start, a named position, or its last token.
  Both are the same if all prompts have one length and their names one index.
- ``zero``: zero ablation.

The attention's output biases belong to no source and are never ablated. ``mean`` and ``zero`` need
pruned circuits: a node without inputs would still compute an output from the ablated stream.
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

_LANDMARK = 2**32  # more than any offset, so that landmark and offset fit one integer


@dataclass(frozen=True)
class MeanOutputs:
    """Mean output of every source at every aligned position of a reference set.

    Attributes:
        names: Named positions that serve as landmarks, sorted.
        places: The aligned positions, sorted.
        embedding: Mean of the input.
        z: Means of the heads, before W_O, layer by layer.
        mlp_out: Means of the MLPs, layer by layer.
    """

    names: tuple[str, ...]
    places: Int[Tensor, " places"]
    embedding: Float[Tensor, "places d_model"]
    z: tuple[Float[Tensor, "places heads d_head"], ...]
    mlp_out: tuple[Float[Tensor, "places d_model"], ...]

    def rows(self, pairs: PromptPairs, width: int) -> Int[Tensor, "prompts width"]:
        """Return the row of the mean for each position; any row for padding.

        Raises:
            CircuitlapseError: If the reference has no such position.
        """
        places = _places(pairs, self.names, width)
        rows = torch.searchsorted(self.places, places).clamp(max=len(self.places) - 1)
        missing = ((self.places[rows] != places) & _real(pairs, width)).nonzero()
        if len(missing):
            prompt, column = missing[0].tolist()
            landmark, offset = divmod(int(places[prompt, column]), _LANDMARK)
            name = ("the start", *self.names, "the last token")[landmark]
            raise CircuitlapseError(
                f"no prompt of the reference has a token {offset} after {name}",
                got=f"token {column} of a prompt",
                fix="Pass a reference of the same templates, or none to use the corrupt prompts",
            )
        return rows


def check_ablation(ablation: Ablation, reference: PromptPairs | None) -> None:
    """Check the ablation's name and its reference.

    Raises:
        CircuitlapseError: If the name is unknown, or a reference is given for another than
            ``mean``.
    """
    if ablation not in get_args(Ablation):
        raise CircuitlapseError(
            "there is no such ablation",
            got=ablation,
            fix=f"Pass ablation= one of {', '.join(get_args(Ablation))}",
        )
    if reference is not None and ablation != "mean":
        raise CircuitlapseError(
            "only ablation='mean' takes a reference",
            got=f"one with ablation={ablation!r}",
            fix="Leave out reference=",
        )


def mean_outputs(
    decoder: Decoder, pairs: PromptPairs, reference: PromptPairs | None, batch_size: int | None
) -> MeanOutputs:
    """Average every source's output on the corrupt prompts of ``reference`` or else ``pairs``.

    Landmarks are the named positions that both have.
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
    # This metric needs no distractors; it is not computed.
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
    """Return every block's activations with every edge ablated: the empty circuit.

    This is a run of the model for ``corrupt`` only. Other ablations need whole prompts.
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
    """Number every position by its last landmark and the distance to it."""
    last = pairs.lengths - 1
    landmarks = torch.stack(
        [torch.zeros_like(last), *[pairs.positions[name] for name in names], last]
    )
    columns = torch.arange(width, device=last.device)
    passed = landmarks[:, :, None] <= columns
    # The rightmost landmark passed; of several on one token, the final one listed.
    rank = (landmarks * len(landmarks)).add(
        torch.arange(len(landmarks), device=last.device)[:, None]
    )
    best = torch.where(passed, rank[:, :, None], -1).amax(dim=0)
    which, where = best % len(landmarks), best // len(landmarks)
    return which * _LANDMARK + columns - where


def _real(pairs: PromptPairs, width: int) -> Bool[Tensor, "prompts width"]:
    """Whether a position is a real token, not padding."""
    ends = pairs.logit_positions().amax(dim=1, keepdim=True)
    return torch.arange(width, device=ends.device) <= ends
