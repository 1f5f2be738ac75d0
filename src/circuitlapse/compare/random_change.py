"""A null for every comparison of two models: a change of the weights that is as large, and random.

What fine-tuning does to circuits means something only beside what any change of that size does to
them. Every tensor gets a change of its own size: one norm for the whole model would move most of
the change from small tensors, such as normalisations, into large ones.
"""

import copy
from typing import Any

import torch

from circuitlapse.compare.replaced import check_alike
from circuitlapse.models import Model, load_model


@torch.no_grad()
def random_change(base: Model, tuned: Model, seed: int) -> Model:
    """Return a copy of the base with a random change as large as fine-tuning's, tensor by tensor.

    The direction is uniform; the Frobenius norm is that of M1 - M0. A tensor that fine-tuning left
    alone stays as it is.

    Args:
        base: M0.
        tuned: M1, of the same architecture and vocabulary.
        seed: Draws another direction.

    Raises:
        CircuitlapseError: If the models' parameters differ in name or shape.
    """
    check_alike(base, tuned)
    hf: Any = copy.deepcopy(base.hf)
    theirs = dict(tuned.hf.named_parameters())
    generator = torch.Generator().manual_seed(seed)
    for name, weight in hf.named_parameters():
        size = (theirs[name] - weight).double().norm().cpu()
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight += (drawn * (size / drawn.norm())).to(weight)
    return load_model(hf, dtype=base.decoder.W_E.dtype)
