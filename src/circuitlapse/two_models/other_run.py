"""v of a model in which chosen outputs are taken from another run.

The other run is the same model on the corrupted prompt (activation patching), or another model of
the same architecture on the same prompt (cross-model activation patching, mediation). A head's
output is its mixed values times its rows of W_O, without the bias that all heads share.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch, logit_direction
from circuitlapse.patching.partial_forward import floats_per_token
from circuitlapse.prompts.answer_value import answer_values
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float
from circuitlapse.two_models.hooked_forward import check_same_architecture
from circuitlapse.two_models.patched_runs import Chosen, Patch, PatchedRuns


@dataclass(frozen=True, eq=False)
class Values:
    """v per prompt, in logits: of a run, of the other run, and of the run with each patch."""

    own: Float[np.ndarray, " prompts"]
    other: Float[np.ndarray, " prompts"]
    patched: Float[np.ndarray, "patches prompts"]

    @classmethod
    def mean(cls, each: Sequence["Values"]) -> "Values":
        """Average over counterfactuals of the same prompts."""
        parts = zip(*((one.own, one.other, one.patched) for one in each), strict=True)
        return cls(*(np.mean(part, axis=0) for part in parts))

    @property
    def whole(self) -> Float[np.ndarray, " prompts"]:
        """What the other run lacks."""
        return self.own - self.other

    @property
    def undone(self) -> Float[np.ndarray, "patches prompts"]:
        """What each patch takes away."""
        return self.own - self.patched


def from_corrupt(
    model: Model, pairs: PromptPairs, patches: Sequence[Patch], batch_size: int | None = None
) -> Values:
    """Run a model on clean prompts with outputs from its own run on the corrupted ones.

    Raises:
        CircuitlapseError: If there is no such node or position, or the model cannot run the pairs.
    """
    return _values(model, None, pairs, patches, batch_size)


def from_model(
    model: Model,
    other: Model,
    pairs: PromptPairs,
    patches: Sequence[Patch],
    batch_size: int | None = None,
) -> Values:
    """Run a model on clean prompts with outputs of another model on the same prompts.

    Raises:
        CircuitlapseError: If the models differ in architecture, there is no such node or position,
            or a model cannot run the pairs.
    """
    check_same_architecture(other, model)
    return _values(model, other, pairs, patches, batch_size)


@torch.no_grad()
def _values(
    model: Model,
    other: Model | None,
    pairs: PromptPairs,
    patches: Sequence[Patch],
    batch_size: int | None,
) -> Values:
    decoder, chosen = model.decoder, [Chosen.of(model.graph, patch) for patch in patches]
    source = decoder if other is None else other.decoder

    def others(batch: Suffixes, final: Tensor) -> Float[Tensor, "1 batch"]:
        if batch.direction is not None:  # each model has its own unembedding
            batch = replace(batch, direction=logit_direction(source, batch.pairs))
        return batch.metric(source, final)[None]

    def measure(pairs: PromptPairs, metric: Metric) -> Float[Tensor, "runs prompts"]:
        values = torch.empty(2 + len(patches), len(pairs))

        def work(batch: Suffixes) -> Tensor:
            theirs = batch.corrupt
            if other is not None:
                theirs = source.embed(batch.pairs.clean[:, : batch.clean.shape[1]])
            inputs = batch.clean, theirs
            runs = PatchedRuns.of(decoder, source, inputs, batch.context, batch.pairs, chosen)
            found = [batch.metric(decoder, runs.final)[None], others(batch, runs.other_final)]
            for finals in runs.finals(chosen):
                metrics = batch.metric(decoder, finals.flatten(0, 1))
                found.append(metrics.unflatten(0, finals.shape[:2]))
            return torch.cat(found).float().cpu()

        def keep(rows: Tensor, found: Tensor) -> None:
            values[:, rows] = found

        floats = floats_per_token(decoder, ("z", "mlp_out", "resid_pre"), 1)
        whole = other is not None  # the models differ from the first token on
        each_batch(decoder, pairs, floats, work, metric, batch_size, keep=keep, whole=whole)
        return values

    own, of_other, *patched = answer_values(pairs, measure)
    return Values(own, of_other, np.reshape(patched, (len(patches), len(pairs))))
