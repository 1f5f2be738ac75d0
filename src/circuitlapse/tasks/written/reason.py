"""Why an item is of no use, in one word for counting and one sentence for people."""

from typing import Literal

Reason = Literal[
    "not_plain",
    "duplicate",
    "no_list",
    "no_recipient",
    "no_subject",
    "one_subject",
    "answer_among_subjects",
    "answer_not_listed",
    "several_answers",
    "tokens",
]

MEANINGS: dict[Reason, str] = {
    "not_plain": "not plain prose, or it speaks to a model",
    "duplicate": "the same prompt and answer stood earlier",
    "no_list": "no list of the right number of different names",
    "no_recipient": "no name can follow the prompt",
    "no_subject": "none of the listed people is said to act",
    "one_subject": "too few of the listed people are said to act",
    "answer_among_subjects": "the answer is someone who acts",
    "answer_not_listed": "the answer is not a listed name",
    "several_answers": "more than one person can be the answer",
    "tokens": "the tokenizer splits a name or spells the pair differently long",
}


class ItemError(Exception):
    """An item cannot be used.

    Args:
        reason: One of ``Reason``.
        detail: What is wrong with this very item.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        """Keep both parts."""
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail
