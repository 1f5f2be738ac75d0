"""The organism's tokenizer: whole words in GPT-2's byte-level spelling.

GPT-2's pre-tokenizer splits the text, so " Mary" with its space is one token and decoding returns
the text. The end-of-text token is also the padding token, as usual for GPT-2.
"""

import re
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from circuitlapse.tasks.templates import CONTINUATIONS, OPENINGS
from circuitlapse.tasks.words import NAMES, OBJECTS, PLACES

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"

EXTRA_WORDS = ("They", "they")
"""Words of the pretraining text that no template has."""


def leads() -> tuple[str, ...]:
    """Return the first words of all openings."""
    return _unique(o.text.split()[0].strip(",") for group in OPENINGS.values() for o in group)


def fillers() -> tuple[str, ...]:
    """Return the other words that are no names, places or objects.

    Words that follow a full stop in some prompt are also there with a capital letter.
    """
    inside: list[str] = []
    for group in OPENINGS.values():
        inside += [word for o in group for word in _words(o.text)[1:]]
    for group in CONTINUATIONS.values():
        for c in group:
            words = _words(c.text)
            inside += words
            if not c.text.startswith("{"):
                inside.append(words[0].capitalize())
    return _unique([*inside, *EXTRA_WORDS])


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", " ", text))


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer. Other words become the unknown token, which ``tokenize`` rejects."""
    pieces = [END_OF_TEXT, UNKNOWN, ",", ".", "\u0120and", *leads()]
    pieces += [f"\u0120{word}" for word in (*fillers(), *NAMES, *PLACES, *OBJECTS)]
    vocabulary = {piece: i for i, piece in enumerate(_unique(pieces))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        unk_token=UNKNOWN,
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )
