"""Metrics: one number per prompt, larger where the model does better.

- ``logit_diff``: the answer's logit minus the mean of the distractors' (Wang et al. 2022).
- ``logit_diff_hardest``: the answer's logit minus the largest of the distractors'.
- ``prob``: probability of the answer over the whole vocabulary.
- ``prob_diff``: the answer's probability minus that of all distractors (Hanna et al. 2023).
- ``log_prob``: the logarithm of ``prob``, which is minus the negative log-likelihood, in nats.
- ``neg_kl``: minus KL(clean ‖ intervened), the divergence from the clean model's answer, in nats.
- ``accuracy``: 1 where the answer has the largest logit of the whole vocabulary, else 0; a tie is
  wrong. It has no gradient.

Of several right answers, ``logit_diff`` takes the mean logit and ``logit_diff_hardest`` the
largest, their probabilities add up, and ``accuracy`` asks for any. An answer of several tokens is
scored with its earlier tokens given (teacher forcing): log probabilities and divergences add up
over its tokens, and it is right if all of them are. Logit and probability differences compare
single tokens only.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Bool, Float, Int

MetricName = Literal[
    "logit_diff", "logit_diff_hardest", "prob", "prob_diff", "log_prob", "neg_kl", "accuracy"
]
_COMPARING = ("logit_diff", "logit_diff_hardest", "prob_diff")
Metric = MetricName | Callable[..., Any]
"""A name, or a callable from the last position's logits, ``[prompts, vocab]``, to ``[prompts]``.

A callable is called once per batch, with the prompts in the caller's order. A second argument gets
the batch's :class:`~circuitlapse.prompts.pairs.PromptPairs`.
"""


def logit_difference(
    logits: Float[Tensor, "prompts vocab"],
    answers: Int[Tensor, " prompts"] | Int[Tensor, "prompts right"],
    distractors: Int[Tensor, "prompts distractors"],
) -> Float[Tensor, " prompts"]:
    """Return the answer's logit minus the distractors' mean logit (Wang et al. 2022).

    Missing answers and distractors are −1.
    """
    right = answers[:, None] if answers.ndim == 1 else answers
    return candidate_mean(_logits_of(right, logits), right) - candidate_mean(
        _logits_of(distractors, logits), distractors
    )


def candidate_mean(
    values: Float[Tensor, "prompts candidates *more"], tokens: Int[Tensor, "prompts candidates"]
) -> Float[Tensor, "prompts *more"]:
    """Average over each prompt's candidates, without missing ones (−1)."""
    real = tokens >= 0
    if bool(real.all()):
        return values.mean(dim=1)
    real = real.view(*real.shape, *[1] * (values.ndim - 2))
    return values.where(real, 0).sum(dim=1) / real.sum(dim=1)


def _logits_of(
    tokens: Int[Tensor, "prompts candidates"],
    logits: Float[Tensor, "prompts vocab"],
    missing: float = 0.0,
) -> Float[Tensor, "prompts candidates"]:
    return logits.gather(1, tokens.clamp(min=0)).where(tokens >= 0, missing)


def check_metric(metric: Metric, pairs: PromptPairs, needs_gradient: bool = False) -> None:
    """Raise an error if there is no such metric, or it cannot be computed on these pairs."""
    names = get_args(MetricName)
    if not callable(metric) and metric not in names:
        raise CircuitlapseError(
            "there is no such metric",
            got=metric,
            fix=f"Use one of {', '.join(names)}, or a function of the last position's logits",
        )
    if needs_gradient and metric == "accuracy":
        raise CircuitlapseError(
            "accuracy has no gradient to attribute",
            fix="Use log_prob or logit_diff here; accuracy works with method='exact', patch and "
            "evaluate_circuit",
        )
    more = max(pairs.continuations.shape[1], pairs.distractor_continuations.shape[2])
    if pairs.is_sequence and (callable(metric) or metric in _COMPARING):
        raise CircuitlapseError(
            "a metric on the last position's logits is defined for answers of one token only",
            got=f"answers of up to {1 + more} tokens",
            fix="Use metric='log_prob' (or prob, neg_kl, accuracy)",
        )
    if metric in _COMPARING and not bool((pairs.distractors >= 0).any(dim=1).all()):
        raise CircuitlapseError(
            f"{metric} needs distractors to compare with",
            got="pairs without any" if not pairs.distractors.numel() else "a prompt without any",
            fix="Give distractors, or use metric='log_prob'",
        )


def compute_metric(
    metric: Metric,
    logits: Float[Tensor, "prompts tokens vocab"],
    pairs: PromptPairs,
    reference: Float[Tensor, "prompts tokens vocab"] | None = None,
) -> Float[Tensor, " prompts"]:
    """Compute a metric that :func:`check_metric` accepts. ``reference`` is for ``neg_kl``.

    Raises:
        CircuitlapseError: If a callable does not return one number per prompt.
    """
    if callable(metric):
        return _called(metric, logits[:, 0], pairs)
    if metric == "logit_diff":
        return logit_difference(logits[:, 0], pairs.right(), pairs.distractors)
    if metric == "logit_diff_hardest":
        return best(pairs.right(), logits[:, 0]) - best(pairs.distractors, logits[:, 0])
    if metric == "prob_diff":
        probs = logits[:, 0].softmax(dim=-1)
        right, wrong = (_logits_of(t, probs) for t in (pairs.right(), pairs.distractors))
        return right.sum(dim=1) - wrong.sum(dim=1)
    if metric == "accuracy":
        return is_right(logits, pairs).to(logits.dtype)
    tokens, real = pairs.answer_tokens()
    logs = logits.log_softmax(dim=-1)
    if pairs.also.shape[1] and metric != "neg_kl":
        total = _logits_of(pairs.right(), logs[:, 0], -torch.inf).logsumexp(dim=1)
        return total.exp() if metric == "prob" else total
    if metric == "neg_kl":
        if reference is None:
            raise CircuitlapseError(
                "neg_kl needs the clean model's logits",
                got="no reference",
                fix="Pass them as reference, or use metric='log_prob'",
            )
        clean = reference.log_softmax(dim=-1)
        per_token = -(clean.exp() * (clean - logs)).sum(dim=-1)
    else:
        per_token = logs.gather(2, tokens[:, :, None])[:, :, 0]
    total = (per_token * real).sum(dim=1)
    return total.exp() if metric == "prob" else total


def best(
    tokens: Int[Tensor, "prompts candidates"], logits: Float[Tensor, "prompts vocab"]
) -> Float[Tensor, " prompts"]:
    """Return the largest logit among candidates, without missing ones (−1)."""
    return _logits_of(tokens, logits, -torch.inf).amax(dim=1)


def is_right(
    logits: Float[Tensor, "prompts tokens vocab"], pairs: PromptPairs
) -> Bool[Tensor, " prompts"]:
    """Whether every token of the answer, or any right answer, has the largest logit; no tie."""
    if pairs.also.shape[1]:
        right = pairs.right()
        answer = best(right, logits[:, 0])
        others = logits[:, 0].scatter(1, right.where(right >= 0, right[:, :1]), -torch.inf)
        return answer > others.amax(dim=1)
    tokens, real = pairs.answer_tokens()
    answer = logits.gather(2, tokens[:, :, None])
    return (((logits >= answer).sum(dim=2) == 1) | ~real).all(dim=1)


def _called(
    metric: Callable[..., Any], logits: Float[Tensor, "prompts vocab"], pairs: PromptPairs
) -> Float[Tensor, " prompts"]:
    value = metric(logits, pairs) if _takes_pairs(metric) else metric(logits)
    if not isinstance(value, Tensor) or value.shape != logits.shape[:1]:
        raise CircuitlapseError(
            "a metric must return a tensor with one number per prompt",
            got=tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__,
            fix=f"For logits of shape {tuple(logits.shape)} return shape {(len(logits),)}; a "
            "second argument gets the PromptPairs of the same prompts",
        )
    if logits.requires_grad and not value.requires_grad:
        raise CircuitlapseError(
            "this metric has no gradient to attribute",
            fix="Write it in differentiable torch operations, without detach, argmax or numpy; "
            "patch and method='exact' take any metric",
        )
    # Booleans and counts are numbers too, and effects are differences of them.
    return value if value.is_floating_point() else value.to(logits.dtype)


def in_order(
    metric: Callable[..., Any], rows: Int[Tensor, " batch"], pairs: PromptPairs, whole: bool
) -> Callable[..., Any]:
    """Return a callable metric that gets its rows in the caller's order.

    Unless the batch is ``whole`` (all prompts), the first call checks that a metric of logits alone
    does not depend on a prompt's row.
    """
    order = rows.argsort()
    back, pairs = order.argsort(), pairs[order]
    to_check = not whole and not _takes_pairs(metric)

    def ordered(logits: Tensor, _: PromptPairs) -> Tensor:
        nonlocal to_check
        logits = logits[order]
        value = _called(metric, logits, pairs)
        if to_check:
            _check_rows_do_not_matter(metric, logits.detach(), value.detach())
            to_check = False
        return value[back]

    return ordered


@torch.no_grad()
def _check_rows_do_not_matter(
    metric: Callable[..., Any],
    logits: Float[Tensor, "prompts vocab"],
    value: Float[Tensor, " prompts"],
) -> None:
    moved = metric(torch.cat([logits[:1], logits]))
    same = moved.shape == (1 + len(logits),) and torch.allclose(
        moved[1:].to(value), value, 1e-3, 1e-4 * float(value.abs().max()), equal_nan=True
    )
    if not same:
        raise CircuitlapseError(
            "your metric indexes prompts by row, which needs all of them in one batch",
            got=f"a batch of {len(logits)}",
            fix="Let it take the PromptPairs as second argument, or pass batch_size=len(pairs)",
        )


def _takes_pairs(metric: Callable[..., Any]) -> bool:
    """Whether a callable needs a second positional argument."""
    try:
        parameters = inspect.signature(metric).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in positional and p.default is p.empty]
    return len(needed) > 1
