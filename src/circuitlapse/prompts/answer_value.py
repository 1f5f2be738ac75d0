"""v: how much a model prefers the right answer, in logits, for every kind of answer.

Effects inside one model are differences of v. Bits and accuracy would saturate or diverge where a
patched model is surely wrong.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from circuitlapse.prompts.metrics import Metric, candidate_mean
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float

Measure = Callable[[PromptPairs, Metric], Float[Tensor, "*what prompts"]]
"""Measures a metric on the prompts of some pairs; linear in the metric."""


def answer_values(pairs: PromptPairs, measure: Measure) -> Float[np.ndarray, "*what prompts"]:
    """Measure v, the answer's logit minus the distractors' mean logit (after Wang et al. 2022).

    Several right answers count as one, by the logarithm of the sum of their exponentials. Without
    distractors the mean logit of the vocabulary takes their place. Answers of several tokens are
    compared by their summed log probabilities, each with its own earlier tokens given.
    """
    if not pairs.is_sequence:
        return measure(pairs, value_metric(pairs)).double().cpu().numpy()
    answer = measure(pairs, "log_prob").double()
    tokens = pairs.distractors.cpu()
    if tokens.shape[1]:
        others = [measure(pairs.answered_by(i), "log_prob") for i in range(tokens.shape[1])]
        wrong = torch.stack(others).movedim((-1, 0), (0, 1)).double().cpu()
        answer = answer.cpu() - candidate_mean(wrong, tokens).movedim(0, -1)
    return answer.cpu().numpy()


def value_metric(pairs: PromptPairs) -> Metric:
    """Return v as a metric, for answers of one token.

    It is the plain logit difference where that is the same, since it needs no other logits.
    """
    one_answer = not pairs.also.shape[1]
    all_compared = bool((pairs.distractors >= 0).any(dim=1).all())
    return "logit_diff" if one_answer and all_compared else _value


def _value(logits: Float[Tensor, "prompts vocab"], pairs: PromptPairs) -> Float[Tensor, " prompts"]:
    right, wrong = pairs.right(), pairs.distractors
    answers = logits.gather(1, right.clamp(min=0)).where(right >= 0, -torch.inf).logsumexp(dim=1)
    compared = (wrong >= 0).any(dim=1) if wrong.shape[1] else torch.zeros_like(answers).bool()
    others = logits.mean(dim=1)
    if bool(compared.any()):
        listed = candidate_mean(logits.gather(1, wrong.clamp(min=0)).where(wrong >= 0, 0), wrong)
        others = listed.where(compared, others)
    return answers - others
