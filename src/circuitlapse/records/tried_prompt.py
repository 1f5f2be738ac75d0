"""What every checkpoint of a run makes of one prompt: the playground's record."""

from dataclasses import dataclass

import numpy as np

from circuitlapse.shapes import Float


@dataclass(frozen=True)
class Trial:
    """One prompt at every checkpoint.

    Attributes:
        run: Name of the run.
        prompt: The prompt as it was typed.
        tokens: Its tokens as text.
        heads: Names of the heads whose attention was kept, such as ``a2.h3``.
        steps: The checkpoints.
        top: At each step the most probable next tokens with their probabilities.
        lens: At each step, before each layer and at the end, the token that the logit lens names
            and its probability.
        attention: From the last token, ``[steps, heads, tokens]``.
    """

    run: str
    prompt: str
    tokens: list[str]
    heads: list[str]
    steps: list[int]
    top: list[list[tuple[str, float]]]
    lens: list[list[tuple[str, float]]]
    attention: Float[np.ndarray, "steps heads tokens"]
