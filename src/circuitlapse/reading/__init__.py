"""What a model's activations and weights say directly, without any intervention.

Each reading has its own file with the source of its definition, and a slow literal twin in the
tests.
"""

from circuitlapse.reading.attention import (
    attention_between,
    attention_of_each,
    attention_of_layers,
    attention_patterns,
)
from circuitlapse.reading.direct import DirectAttribution, direct_logit_attribution
from circuitlapse.reading.heads import copying_scores, matching_scores
from circuitlapse.reading.lens import logit_lens
from circuitlapse.reading.repeats import RepeatScores, repeat_scores
from circuitlapse.reading.together import Readings, read_together

__all__ = [
    "DirectAttribution",
    "Readings",
    "RepeatScores",
    "attention_between",
    "attention_of_each",
    "attention_of_layers",
    "attention_patterns",
    "copying_scores",
    "direct_logit_attribution",
    "logit_lens",
    "matching_scores",
    "read_together",
    "repeat_scores",
]
