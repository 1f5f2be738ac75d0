"""Path patching: the effect of the direct paths between source and destination nodes, all else
frozen.

Definition (Wang et al. 2022, appendix B; Goldowsky-Dill et al. 2023). The base run is the clean one
and the source run the corrupt one (noising), or the other way round (denoising).

1. Run both.
2. Run the base again with the senders' outputs from the source run. All other heads, and all other
MLPs unless ``through_mlps``, are frozen to the base run. Record the receivers' activations:
queries, keys and values of heads, outputs of MLPs, the logits themselves.
3. Run the base again with the receivers' recorded activations patched in.

The effect is the clean metric minus that of the third run. By default MLPs are frozen and paths are
edges of the graph: one sender and one receiver give activation patching of one edge. Wang et al.
let paths go through MLPs. Receivers do not affect each other's recorded activations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import SLOTS
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.patching.directions import Direction, Runs, check_direction, run_both
from circuitlapse.patching.endpoints import find_receivers, find_senders, names_of
from circuitlapse.patching.partial_forward import floats_per_token, variants_at_once
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Bool, Float

_NEEDS = ("resid_pre", "z", "mlp_out")


def patch_paths(
    model: Model,
    pairs: PromptPairs,
    senders: Sequence[str],
    receivers: Sequence[str],
    direction: Direction = "noising",
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
    *,
    through_mlps: bool = False,
) -> Float[Tensor, " prompts"]:
    """Patch all direct paths from a set of senders to a set of receivers at once.

    Args:
        senders: Source nodes, as in ``model.graph.writers``.
        receivers: Destination nodes, as in ``model.graph.readers``, or heads: ``a3.h2`` stands for
            its query, key and value (a shared key or value also reaches the heads that share it).
            ``logits`` can only be alone.
        direction: ``noising`` takes the senders' outputs from the corrupt run, for receivers of the
            clean run; ``denoising`` the reverse.
        metric: See :mod:`circuitlapse.prompts.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.
        through_mlps: Whether a path may go through any number of MLPs, as in Wang et al. (2022); by
            default it is one edge.

    Returns:
        Clean metric minus patched metric of each prompt, in the metric's unit (logits).

    Raises:
        CircuitlapseError: If a name is unknown, no receiver comes after any sender, ``logits`` is
            among several receivers, the direction is unknown, or the model cannot run the pairs.
    """
    graph = model.graph
    chosen = torch.zeros(1, len(graph.writers), dtype=torch.bool)
    chosen[0, find_senders(graph, senders)] = True
    readers = find_receivers(graph, receivers)
    if not graph.edges[chosen[0]][:, readers].any():
        raise CircuitlapseError(
            "there is no path: no receiver comes after any of the senders",
            got=f"{', '.join(names_of(senders))} → {', '.join(names_of(receivers))}",
            fix="Name writers as senders and later readers as receivers",
        )
    return _effects(model, pairs, chosen, readers, direction, metric, batch_size, through_mlps)[
        :, 0
    ]


def sweep_paths(
    model: Model,
    pairs: PromptPairs,
    receivers: Sequence[str],
    direction: Direction = "noising",
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
    *,
    through_mlps: bool = False,
) -> Float[Tensor, "prompts writers"]:
    """Patch the direct paths from each source node in turn to one set of receivers.

    See :func:`patch_paths` for the arguments and errors.

    Returns:
        Clean metric minus patched metric, in the order of ``model.graph.writers``: first ``input``,
        then layer by layer the heads and the MLP. A source after all receivers has exactly the
        effect of no patch (0 for noising).
    """
    graph = model.graph
    each = torch.eye(len(graph.writers), dtype=torch.bool)
    readers = find_receivers(graph, receivers)
    return _effects(model, pairs, each, readers, direction, metric, batch_size, through_mlps)


@torch.no_grad()
def _effects(
    model: Model,
    pairs: PromptPairs,
    senders: Bool[Tensor, "variants writers"],
    readers: list[int],
    direction: Direction,
    metric: Metric,
    batch_size: int | None,
    through_mlps: bool,
) -> Float[Tensor, "prompts variants"]:
    check_direction(direction)
    decoder, graph = model.decoder, model.graph
    connected = (senders & graph.edges[:, readers].any(dim=1)).any(dim=1).nonzero()[:, 0]
    effects = torch.empty(len(pairs), len(senders))

    def work(batch: Suffixes) -> Tensor:
        runs = run_both(decoder, batch, _NEEDS, direction)
        after = runs.unpatched.expand(len(senders), -1).clone()
        paths = _Paths(graph, runs, readers, through_mlps)
        for rows in connected.split(variants_at_once(decoder, batch.context, batch.clean)):
            final = paths.final(senders[rows])
            metrics = batch.metric(decoder, final.flatten(0, 1))
            after[rows] = metrics.unflatten(0, (len(rows), -1))
        return (runs.clean - after).T.float().cpu()

    floats = floats_per_token(decoder, _NEEDS, 0)
    each_batch(decoder, pairs, floats, work, metric, batch_size, keep=effects.__setitem__)
    return effects


class _Paths:
    """The second and third run of path patching on one batch, layer by layer."""

    def __init__(self, graph: Graph, runs: Runs, readers: list[int], through_mlps: bool) -> None:
        self.graph, self.decoder, self.context = graph, runs.decoder, runs.batch.context
        self.base, self.source = runs.base, runs.source
        self.readers, self.through_mlps = set(readers), through_mlps

    def final(
        self, senders: Bool[Tensor, "variants writers"]
    ) -> Float[Tensor, "variants batch reads d_model"]:
        """Return the last residual stream of the third run, for each set of senders."""
        ours, decoder, n = self.base, self.decoder, len(senders)
        # How far the second run's stream is from the base's, and the third run's stream; None
        # while nothing has changed.
        moved = self._sent(senders[:, :1], (self.source[0].resid_pre - ours[0].resid_pre)[None])
        x: Tensor | None = None
        for layer, step in enumerate(ours):
            if self.graph.attention_readers(layer).start > max(self.readers):
                moved = None
                if x is not None:
                    x = decoder.run(x, self.context, layer)
                break
            recorded = {} if moved is None else self._record(layer, step.resid_pre + moved)
            into_mlp = moved
            moved = self._to_queries(layer, moved)
            moved = _plus(moved, self._sent_by_heads(layer, senders))
            into_mlp = self._to_queries(layer, into_mlp) if decoder.parallel else moved
            is_receiver = self.graph.mlp_reader(layer) in self.readers
            out = None
            if into_mlp is not None and (is_receiver or self.through_mlps):
                out = decoder.mlp[layer](step.resid_mid + into_mlp)
            x = self._third(layer, n, x, recorded, out if is_receiver else None)
            moved = _plus(moved, self._sent_by_mlp(layer, senders, out))
        if self.graph.logits_reader in self.readers and moved is not None:
            return ours[-1].resid_post + moved
        unmoved = ours[-1].resid_post.expand(n, *ours[-1].resid_post.shape)
        return unmoved if x is None else x.unflatten(0, (n, -1))

    def _third(
        self,
        layer: int,
        n: int,
        x: Tensor | None,
        recorded: dict[int, tuple[list[int], Tensor]],
        out: Tensor | None,
    ) -> Tensor | None:
        """Run one layer of the third run, with the receivers' recorded activations patched in."""
        decoder, step = self.decoder, self.base[layer]
        if x is None and not recorded:
            return None if out is None else (step.resid_post + (out - step.mlp_out)).flatten(0, 1)
        if x is None:
            x = _repeated(step.resid_pre, n)
            slots = [_repeated(slot, n) for slot in (step.q, step.k, step.v)]
        else:
            slots = list(decoder.attention[layer].project(x))
        for index, (heads, values) in recorded.items():
            slots[index][:, :, heads] = values
        q, k, v = slots
        if out is None:
            return decoder.finish(layer, x, q, k, v, self.context).resid_post
        q, x = (decoder.to_queries(layer, each, self.context) for each in (q, x))
        z = decoder.attend(layer, q, k, v, self.context)
        return x + decoder.attention_out(layer, z) + out.flatten(0, 1)

    def _record(
        self, layer: int, x: Float[Tensor, "variants batch pos d_model"]
    ) -> dict[int, tuple[list[int], Tensor]]:
        """Project the queries, keys and values of the receivers in a layer, by slot."""
        block, recorded = self.decoder.attention[layer], {}
        for index, slot in enumerate(SLOTS):
            slots = self.graph.slot_readers(layer, slot)
            readers = range(slots.start, slots.stop)
            heads = [head for head, reader in enumerate(readers) if reader in self.readers]
            if heads:
                weight, bias = block.slot(index)
                normed = block.norm(x.flatten(0, 1))
                values = torch.einsum("bpd,hde->bphe", normed, weight[heads])
                recorded[index] = heads, values if bias is None else values + bias[heads]
        return recorded

    def _sent_by_heads(self, layer: int, senders: Tensor) -> Tensor | None:
        senders = senders[:, self.graph.head_writers(layer)]
        used = senders.any(dim=0).nonzero()[:, 0].tolist()
        if not used:
            return None
        z = (self.source[layer].z - self.base[layer].z)[:, :, used].flatten(0, 1).transpose(0, 1)
        change = torch.bmm(z, self.decoder.attention[layer].W_O[used])
        return self._sent(senders[:, used], change.unflatten(1, self.base[layer].z.shape[:2]))

    def _sent_by_mlp(self, layer: int, senders: Tensor, recomputed: Tensor | None) -> Tensor | None:
        """Change of an MLP's output in the second run: to the source run's, recomputed, or none."""
        ours = self.base[layer].mlp_out
        column = self.graph.mlp_writer(layer)
        sender = senders[:, column : column + 1]
        sent = self._sent(sender, (self.source[layer].mlp_out - ours)[None])
        if recomputed is None or not self.through_mlps:
            return sent
        change = recomputed - ours
        return (
            change
            if sent is None
            else torch.where(sender[:, None, None].to(change.device), sent, change)
        )

    def _sent(
        self,
        senders: Bool[Tensor, "variants some"],
        change: Float[Tensor, "some batch pos d_model"],
    ) -> Float[Tensor, "variants batch pos d_model"] | None:
        """Sum the senders' changes in each variant."""
        if not senders.any():
            return None
        weights = senders.to(device=change.device, dtype=change.dtype)
        return (weights @ change.flatten(1)).unflatten(1, change.shape[1:])

    def _to_queries(self, layer: int, moved: Tensor | None) -> Tensor | None:
        if moved is None:
            return None
        taken = self.decoder.to_queries(layer, moved.flatten(0, 1), self.context)
        return taken.unflatten(0, moved.shape[:2])


def _plus(moved: Tensor | None, more: Tensor | None) -> Tensor | None:
    if moved is None or more is None:
        return more if moved is None else moved
    return moved + more


def _repeated(x: Tensor, n: int) -> Tensor:
    return x.repeat(n, *[1] * (x.ndim - 1))
