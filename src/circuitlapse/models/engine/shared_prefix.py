"""Batches of prompt pairs, each from its first differing token on.

The tokens before it are the same in the clean and the corrupt run, so their keys and values are
computed once. All variants run only the tokens from there on. Differences of source nodes are zero
in the prefix, so it contributes to no score or effect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.batches import each_group, max_batch_rows
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.layers import single
from circuitlapse.prompts.metrics import (
    Metric,
    candidate_mean,
    check_metric,
    compute_metric,
    in_order,
)
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float, Int

T = TypeVar("T")


@dataclass(frozen=True)
class Suffixes:
    """One batch of pairs; each prompt starts at its own first differing token.

    Attributes:
        rows: Rows of the pairs, on the CPU; even ones first, so that halves are slices.
        name: The metric, by name or as a callable that takes these rows in this order.
        direction: Of the logit difference: the answer's row of the unembedding minus the
            distractors' mean row; None for any other metric.
        reference: The clean model's logits, for ``neg_kl`` only.
    """

    rows: Int[Tensor, " batch"]
    pairs: PromptPairs
    clean: Float[Tensor, "batch pos d_model"]
    corrupt: Float[Tensor, "batch pos d_model"]
    context: Context
    name: Metric
    direction: Float[Tensor, "batch d_model"] | None
    reference: Float[Tensor, "batch reads vocab"] | None = None

    def everywhere(self) -> Context:
        """The same context with logits at every position, so that the last layer runs whole."""
        n, width, _ = self.clean.shape
        pos = torch.arange(width, device=self.clean.device).expand(n, -1)
        return Context(pos, self.context.start, self.context.past)

    def metric(
        self, decoder: Decoder, final: Float[Tensor, "variants_batch reads d_model"]
    ) -> Float[Tensor, " variants_batch"]:
        """Compute the metric from the last residual stream of one or several variants."""
        variants = final.unflatten(0, (-1, len(self.pairs)))
        if self.direction is not None:  # no other logits are needed: skip the unembedding
            normed = decoder.norm(variants[:, :, 0]).to(self.direction.dtype)
            return (normed * self.direction).sum(dim=-1).flatten()
        return torch.cat(
            [
                compute_metric(self.name, single(decoder.logits(one)), self.pairs, self.reference)
                for one in variants
            ]
        )


def each_batch(
    decoder: Decoder,
    pairs: PromptPairs,
    floats_per_token: int,
    work: Callable[[Suffixes], T],
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
    *,
    keep: Callable[[Int[Tensor, " batch"], T], None] | None = None,
    needs_gradient: bool = False,
    whole: bool = False,
) -> None:
    """Check the pairs and call ``work`` on batches of them, from each pair's first difference on.

    See :func:`circuitlapse.models.engine.batches.each_group` for ``work`` and ``keep``.
    ``floats_per_token`` is the memory of the work, without the metric's. With ``whole``, prompts
    start at their first token.

    Raises:
        CircuitlapseError: If the metric does not fit the pairs, prompts are longer than the model's
            context, token ids are not in its vocabulary, or a single pair does not fit into memory.
    """
    check_metric(metric, pairs, needs_gradient)
    pairs = checked(decoder, pairs)
    starts = torch.minimum(pairs.first_difference(), pairs.lengths - 1)
    if whole:
        starts = torch.zeros_like(starts)
    widths = pairs.logit_positions().amax(dim=1) + 1 - starts
    bytes_per_token = decoder.W_E.itemsize * floats_per_token
    if metric != "logit_diff":
        # Logits of the whole vocabulary, in single precision at least; twice for neg_kl (clean)
        # and for a callable (in the caller's order). Divided by the shortest prompt's tokens.
        copies = 8 if metric == "neg_kl" or callable(metric) else 4
        logits = copies * pairs.logit_positions().shape[1] * len(decoder.W_U)
        bytes_per_token += max(4, decoder.W_E.itemsize) * logits // int(widths.min())
    # Keys and values of the shared prefix, and once more joined with those of the batch's tokens.
    block = decoder.attention[0]
    floats_before = 4 * decoder.n_layers * block.W_O.shape[:2].numel()
    most = max_batch_rows(pairs.clean.device, bytes_per_token, decoder.W_E.itemsize * floats_before)
    each_group(
        lambda rows: work(_suffixes(decoder, rows, pairs, starts, metric)),
        widths,
        starts,
        most,
        batch_size,
        None if keep is None else lambda rows, found: keep(rows.cpu(), found),
        parallel=not callable(metric),
    )


@torch.no_grad()
def _suffixes(
    decoder: Decoder, rows: Tensor, all_pairs: PromptPairs, starts: Tensor, metric: Metric
) -> Suffixes:
    pairs, start = all_pairs[rows], starts[rows]
    if callable(metric):
        metric = in_order(metric, rows, pairs, whole=len(rows) == len(all_pairs))
    reads = pairs.logit_positions() - start[:, None]
    take = start[:, None] + torch.arange(int(reads.max()) + 1, device=start.device)
    take = take.clamp(max=pairs.clean.shape[1] - 1)
    context = Context(reads, start, decoder.prefix(pairs.clean, int(start.max())))
    clean = decoder.embed(pairs.clean.gather(1, take), start)
    direction = reference = None
    if metric == "logit_diff":
        direction = logit_direction(decoder, pairs)
    elif metric == "neg_kl":
        reference = single(decoder.logits(decoder.run(clean, context)))
    corrupt = decoder.embed(pairs.corrupt.gather(1, take), start)
    return Suffixes(rows.cpu(), pairs, clean, corrupt, context, metric, direction, reference)


def logit_direction(decoder: Decoder, pairs: PromptPairs) -> Float[Tensor, "batch d_model"]:
    """Return the direction of the logit difference; see :class:`Suffixes`."""
    right, wrong = (
        candidate_mean(single(decoder.W_U[tokens.clamp(min=0)]), tokens)
        for tokens in (pairs.right(), pairs.distractors)
    )
    return right - wrong


def checked(decoder: Decoder, pairs: PromptPairs) -> PromptPairs:
    """Check lengths and token ids, and return the pairs on the model's device."""
    pairs = pairs.trimmed().to(decoder.W_E.device)
    width, longest = pairs.clean.shape[1], decoder.n_positions
    if width > longest:
        raise CircuitlapseError(
            f"prompts may have at most {longest} tokens in this model",
            got=width,
            fix="Use shorter prompts or a model with a longer context",
        )
    vocabulary = len(decoder.W_E)
    ids_of = {
        "clean": pairs.clean,
        "corrupt": pairs.corrupt,
        "answers": pairs.answer_tokens()[0],
        "other answers": pairs.also.clamp(min=0),
        "distractors": pairs.distractors.clamp(min=0),
        "distractors' further tokens": pairs.distractor_continuations.clamp(min=0),
    }
    for name, ids in ids_of.items():
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
            raise CircuitlapseError(
                f"token ids in {name} must lie between 0 and {vocabulary - 1}",
                got=f"{int(ids.min())} to {int(ids.max())}",
                fix="Use the tokenizer that belongs to this model",
            )
    return pairs
