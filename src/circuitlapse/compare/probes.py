"""Linear probes: is the answer's place in the list to be read off the base's residual stream?

At the last token of every prompt a ridge classifier (least squares to one-hot classes with an L2
penalty; Hastie et al. 2009) is fitted to the stream before each layer and after the last, on
validation prompts, and scored on test prompts. Dimensions are standardised, and the penalty is the
one with the smallest generalised cross-validation error (Golub et al. 1979). A probe of many
dimensions finds much in little, so two nulls stand beside it: the same probe on shuffled labels,
and on a model with random weights, whose stream holds the prompt too, but nothing learnt.
What can be read off need not be used: this is context, and never part of a share.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import Model
from circuitlapse.models.context import Context, at_reads
from circuitlapse.models.groups import each_group
from circuitlapse.models.memory import most_rows
from circuitlapse.models.prefix import checked
from circuitlapse.records.documents import Estimate
from circuitlapse.records.intervals import proportion_interval
from circuitlapse.shapes import Float, Int
from circuitlapse.tasks.pairs import PromptPairs

_PENALTIES = np.logspace(-3, 4, 15)


@dataclass(frozen=True)
class Probe:
    """One layer's probe.

    Attributes:
        layer: The stream before this layer; the number of layers for the stream after the last.
        accuracy: On test prompts, with its interval.
        shuffled: Mean accuracy when the training labels are shuffled.
        shuffled_high: The largest of these.
        random_weights: Accuracy on the model with random weights; None where none was given.
    """

    layer: int
    accuracy: Estimate
    shuffled: float
    shuffled_high: float
    random_weights: float | None


def answer_places(pairs: PromptPairs, listed: tuple[str, ...]) -> Int[np.ndarray, " prompts"]:
    """Place of the answer among the listed names, from 0, in the order of the prompt.

    Args:
        pairs: Prompts with named positions.
        listed: The positions at which names are listed, the answer's first, as in ``("IO", "S1",
            "S2")``.

    Raises:
        CircuitlapseError: If there is no such position, or the first does not hold the answer.
    """
    unknown = [name for name in listed if name not in pairs.positions]
    if unknown or not listed:
        raise CircuitlapseError(
            "there is no such position",
            got=", ".join(unknown) or "none",
            fix=f"Use some of {', '.join(pairs.positions)}",
        )
    where = torch.stack([pairs.positions[name] for name in listed])
    held = pairs.clean.gather(1, where[0][:, None])[:, 0]
    if not torch.equal(held, pairs.answers):
        raise CircuitlapseError(
            f"position {listed[0]} does not hold the answer in every prompt",
            fix="Name the answer's own position first",
        )
    return (where < where[0]).sum(dim=0).cpu().numpy()


def listed_positions(pairs: PromptPairs) -> tuple[str, ...]:
    """Find the positions at which the candidates are named first, the answer's in front.

    Args:
        pairs: Prompts with named positions.

    Returns:
        Names of positions; none where no position holds the answer in every prompt, or no other
        one a distractor.
    """
    answer: list[str] = []
    others: list[str] = []
    for name, where in pairs.positions.items():
        held = pairs.clean.gather(1, where[:, None])
        said_before = (pairs.clean == held) & (
            torch.arange(pairs.clean.shape[1], device=where.device) < where[:, None]
        )
        if bool(said_before.any()):
            continue
        if torch.equal(held[:, 0], pairs.answers):
            answer.append(name)
        elif bool((pairs.distractors == held).any(dim=1).all()):
            others.append(name)
    return (*answer[:1], *others) if answer and others else ()


def probe_layers(
    model: Model,
    train: PromptPairs,
    test: PromptPairs,
    listed: tuple[str, ...],
    *,
    seed: int,
    random_weights: Model | None = None,
    shuffles: int = 20,
) -> list[Probe]:
    """Probe every layer for the answer's place in the list.

    Args:
        model: M0.
        train: Prompts to fit on.
        test: Prompts to score, with other names.
        listed: See :func:`answer_places`.
        seed: Fixes the shuffles.
        random_weights: The same architecture, untrained.
        shuffles: Of the training labels.

    Raises:
        CircuitlapseError: If a position is missing or holds no answer.
    """
    labels, wanted = (answer_places(pairs, listed) for pairs in (train, test))
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(labels)) for _ in range(shuffles)]
    streams = _streams(model, train), _streams(model, test)
    bare = None
    if random_weights is not None:
        bare = _streams(random_weights, train), _streams(random_weights, test)
    rows = []
    for layer in range(model.decoder.n_layers + 1):
        here = streams[0][layer], streams[1][layer]
        right = classify(here[0], labels, here[1]) == wanted
        null = [float((classify(here[0], labels[o], here[1]) == wanted).mean()) for o in orders]
        untrained = None
        if bare is not None:
            found = classify(bare[0][layer], labels, bare[1][layer])
            untrained = float((found == wanted).mean())
        accuracy = proportion_interval(int(right.sum()), len(right))
        rows.append(Probe(layer, accuracy, float(np.mean(null)), max(null), untrained))
    return rows


def classify(
    train: Float[np.ndarray, "some dims"],
    labels: Int[np.ndarray, " some"],
    test: Float[np.ndarray, "others dims"],
) -> Int[np.ndarray, " others"]:
    """Fit a ridge classifier and return the classes that it gives to other rows."""
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    x, others = (train - mean) / spread, (test - mean) / spread
    targets = np.eye(int(labels.max()) + 1)[labels]
    centre = targets.mean(axis=0)
    u, sizes, vt = np.linalg.svd(x, full_matrices=False)
    projected = u.T @ (targets - centre)
    best, chosen = np.inf, None
    for penalty in _PENALTIES:
        kept = sizes**2 / (sizes**2 + penalty)
        left = targets - centre - u @ (kept[:, None] * projected)
        # The intercept takes one degree of freedom.
        error = float((left**2).sum()) / (1 - (kept.sum() + 1) / len(x)) ** 2
        if len(x) > kept.sum() + 1 and error < best:
            best, chosen = error, vt.T @ ((sizes / (sizes**2 + penalty))[:, None] * projected)
    if chosen is None:
        raise CircuitlapseError(
            "a probe needs more prompts", got=len(x), fix="Fit it on more validation prompts"
        )
    return (others @ chosen + centre).argmax(axis=1)


@torch.no_grad()
def _streams(model: Model, pairs: PromptPairs) -> Float[np.ndarray, "layers prompts d_model"]:
    """The residual stream at each prompt's last token, before every layer and after the last."""
    decoder, pairs = model.decoder, checked(model.decoder, pairs)
    found = torch.empty(decoder.n_layers + 1, len(pairs), decoder.d_model)
    starts = torch.zeros_like(pairs.lengths)
    most = most_rows(model.device, 16 * decoder.W_E.itemsize * decoder.d_model)

    def work(rows: Int[Tensor, " batch"]) -> None:
        batch = pairs[rows].trimmed()
        context, x = Context((batch.lengths - 1)[:, None]), decoder.embed(batch.clean)
        for layer in range(decoder.n_layers):
            found[layer, rows.cpu()] = at_reads(x, context)[:, 0].float().cpu()
            x = decoder.step(layer, x, context).resid_post
        found[-1, rows.cpu()] = x[:, 0].float().cpu()

    each_group(work, pairs.lengths, starts, most)
    return found.double().numpy()
