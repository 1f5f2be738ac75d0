"""Few-shot accuracy: what the base can be shown, without any training.

Context, and never part of a share: that M0 does the new task after some examples says what it could
be brought to, not what fine-tuning did.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.records.items import Item
from circuitlapse.stats.intervals import Estimate, mean_interval, proportion_interval
from circuitlapse.tasks.few_shot import with_examples
from circuitlapse.tasks.tokenization import tokenize

EXAMPLES = (0, 2, 4, 8)


@dataclass(frozen=True)
class FewShot:
    """How a model answers behind some solved examples.

    Attributes:
        n_examples: How many.
        n: Prompts asked.
        accuracy_among: Accuracy among the names of the prompt itself.
        logit_diff: In logits.
        refused: Why there are no figures; else empty.
    """

    n_examples: int
    n: int
    accuracy_among: Estimate | None
    logit_diff: Estimate | None
    refused: str = ""


def few_shot(
    model: Model,
    items: Sequence[Item],
    examples: Sequence[Item],
    counts: Sequence[int] = EXAMPLES,
    *,
    seed: int = 0,
    separator: str = ".\n",
) -> list[FewShot]:
    """Ask a model with no, few and more solved examples before each prompt.

    Args:
        model: With its tokenizer.
        items: The new task's test items.
        examples: Items to draw solved examples from, such as training items.
        counts: How many examples.
        seed: Draws other examples.
        separator: What follows an example's answer. The embedded organisms know no line break and
            take ``"."``.

    Returns:
        One row per count; refused where the prompts become longer than the model can read.

    Raises:
        CircuitlapseError: If there are too few examples, or the tokenizer cannot read the prompts.
    """
    rows = []
    for count in counts:
        asked = with_examples(items, examples, count, seed, separator)
        pairs = tokenize(asked, model.tokenizer, next(iter(asked[0].corrupt)))
        longest, most = int(pairs.lengths.max()), model.decoder.n_positions
        if longest > most:
            refused = f"prompts of {longest} tokens, and the model reads {most}"
            rows.append(FewShot(count, len(asked), None, None, refused))
            continue
        answers = behaviour(model, pairs)
        right = proportion_interval(int(answers.correct_among.sum()), len(asked))
        rows.append(
            FewShot(count, len(asked), right, mean_interval(answers.logit_diff.astype(np.float64)))
        )
    return rows
