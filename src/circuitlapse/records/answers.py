"""How a model answers prompts, one entry per prompt."""

from dataclasses import dataclass

import numpy as np

from circuitlapse.shapes import Bool, Float
from circuitlapse.stats.intervals import Estimate, proportion_interval
from circuitlapse.stats.ratios import divide


@dataclass(frozen=True)
class Behaviour:
    """How a model answers the clean prompts, one entry per prompt.

    Attributes:
        logit_diff: Answer logit minus the distractors' mean logit, in logits. Where an answer or a
            distractor has several tokens, the difference of their log probabilities as sequences,
            in nats: of single tokens both are the same. NaN where there are no distractors.
        correct: Whether the answer has the largest logit of the whole vocabulary; of an answer of
            several tokens, whether each has, given those before it.
        candidate_correct: Whether it is the most probable among answer and distractors, as a
        sequence. spread: Standard deviation of the first logits over the vocabulary, in logits:
        their scale.

    Where several answers are right, their mean logit counts, and the best of them must win.
    """

    logit_diff: Float[np.ndarray, " prompts"]
    correct: Bool[np.ndarray, " prompts"]
    candidate_correct: Bool[np.ndarray, " prompts"]
    spread: Float[np.ndarray, " prompts"]

    @property
    def standardised(self) -> Float[np.ndarray, " prompts"]:
        """The logit difference in units of the logits' spread.

        A model that multiplies all its logits by the same number is surer, but no better: this does
        not change, and ``logit_diff`` does.
        """
        return self.logit_diff / self.spread


@dataclass(frozen=True)
class RankedBefore:
    """What the base already ranked right among the candidates, without saying it.

    Attributes:
        failures: Number of prompts on which the base's answer is not the top token.
        failures_ranked: Share of these on which it ranks the answer first among the candidates;
            None without failures.
        gain: Rise of the accuracy over the vocabulary from base to tuned model.
        gain_ranked: Share of that rise on prompts whose answer the base ranks first among the
            candidates, which fine-tuning only taught to say; None if the rise may be zero.
    """

    failures: int
    failures_ranked: Estimate | None
    gain: Estimate
    gain_ranked: Estimate | None


def ranked_before(base: Behaviour, tuned: Behaviour, *, seed: int = 0) -> RankedBefore:
    """Compare two models on the same prompts, at least two; intervals are over prompts.

    The share of failures has Wilson's interval, the gain and its share one bootstrap.
    """
    ranked, failed = base.candidate_correct, ~base.correct
    rise = tuned.correct.astype(np.float64) - base.correct
    divided = divide((rise * ranked)[:, None], rise, seed=seed)
    n = int(failed.sum())
    return RankedBefore(
        failures=n,
        failures_ranked=proportion_interval(int((failed & ranked).sum()), n) if n else None,
        gain=divided.whole,
        gain_ranked=divided.share(0),
    )
