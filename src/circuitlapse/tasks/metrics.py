"""The number per prompt that circuits are found for."""

from torch import Tensor

from circuitlapse.shapes import Float, Int


def logit_difference(
    logits: Float[Tensor, "prompts vocab"],
    answers: Int[Tensor, " prompts"],
    distractors: Int[Tensor, "prompts distractors"],
) -> Float[Tensor, " prompts"]:
    """Return the answer's logit minus the mean of the distractors' logits.

    With one distractor it is the logit difference of Wang et al. (2022).

    Args:
        logits: Logits at each prompt's last token.
        answers: Token id of the right answer.
        distractors: Token ids of the wrong candidates.
    """
    right = logits.gather(1, answers[:, None]).squeeze(1)
    return right - logits.gather(1, distractors).mean(dim=1)
