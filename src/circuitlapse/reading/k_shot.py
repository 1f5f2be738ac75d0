"""k-shot accuracy of the base (Brown et al. 2020), without any training.

It is context and never part of a share: it shows what M0 can do, not what fine-tuning did.
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
    """A model's answers with k solved examples in the prompt.

    Attributes:
        n_examples: k.
        n: Number of prompts.
        candidate_accuracy: Accuracy over the candidates.
        logit_diff: In logits.
        not_reported: Why there are no figures; else empty.
    """

    n_examples: int
    n: int
    candidate_accuracy: Estimate | None
    logit_diff: Estimate | None
    not_reported: str = ""


def few_shot(
    model: Model,
    items: Sequence[Item],
    examples: Sequence[Item],
    counts: Sequence[int] = EXAMPLES,
    *,
    seed: int = 0,
    separator: str = ".\n",
) -> list[FewShot]:
    """Measure k-shot accuracy for each of several k.

    ``examples`` are items to draw from, such as training items. ``separator`` follows an example's
    answer; the embedded organisms have no line break and need ``"."``. A row has no figures if its
    prompts are longer than the model's context.

    Raises:
        CircuitlapseError: If there are too few examples, or the tokenizer cannot encode the
            prompts.
    """
    rows = []
    for count in counts:
        asked = with_examples(items, examples, count, seed, separator)
        pairs = tokenize(asked, model.tokenizer, next(iter(asked[0].corrupt)))
        longest, most = int(pairs.lengths.max()), model.decoder.n_positions
        if longest > most:
            not_reported = f"prompts of {longest} tokens, and the model reads {most}"
            rows.append(FewShot(count, len(asked), None, None, not_reported))
            continue
        answers = behaviour(model, pairs)
        right = proportion_interval(int(answers.candidate_correct.sum()), len(asked))
        rows.append(
            FewShot(count, len(asked), right, mean_interval(answers.logit_diff.astype(np.float64)))
        )
    return rows
