"""How a model answers prompts, one entry per prompt."""

from dataclasses import dataclass

import numpy as np

from circuitlapse.shapes import Bool, Float


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
