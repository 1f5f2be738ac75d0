"""Who is still there: people come in, some leave.

From "John and Mary come into the room, John went out of the room. The person in the room is" with
its variants: three people of whom two leave one by one or together, a third person who leaves and
never came (noise), and two who come in one after the other (two steps).
"""

from collections.abc import Collection

from circuitlapse.tasks.story import SOMEONE, Change, Story, with_slot
from circuitlapse.tasks.validation import Candidates, names_in, undetermined

_ENTER = {
    "train": (
        "Today {list} came into the {room}.",
        "In the morning {list} entered the {room}.",
        "Then {list} walked into the {room}.",
        "At noon {list} stepped into the {room}.",
        "Later that day {list} went into the {room}.",
    ),
    "validation_templates": (
        "After lunch {list} came into the {room}.",
        "A moment ago {list} stepped into the {room}.",
    ),
    "test_templates": (
        "Last night {list} came into the {room}.",
        "Because of the rain {list} entered the {room}.",
        "Around six {list} walked into the {room}.",
    ),
}
_ENTER_APART = {
    "train": (
        "Today {1} came into the {room}. {2} came into the {room}.",
        "In the morning {1} entered the {room}. Then {2} entered the {room}.",
        "First {1} walked into the {room}. After that {2} walked into the {room}.",
        "At noon {1} stepped into the {room}. Soon {2} stepped into the {room}.",
    ),
    "validation_templates": (
        "After lunch {1} came into the {room}. An hour later {2} came into the {room}.",
        "A moment ago {1} stepped into the {room}. Now {2} stepped into the {room}.",
    ),
    "test_templates": (
        "Last night {1} came into the {room}. At midnight {2} came into the {room}.",
        "Because of the rain {1} entered the {room}. At once {2} entered the {room}.",
    ),
}
_LEAVE = {
    "train": (
        "{LEAVES} went out of the {room}.",
        "Then {LEAVES} left the {room}.",
        "A minute later {LEAVES} walked out of the {room}.",
        "After a while {LEAVES} went out of the {room}.",
        "Soon {LEAVES} left the {room}.",
    ),
    "validation_templates": (
        "Before long {LEAVES} went out of the {room}.",
        "In the evening {LEAVES} left the {room}.",
    ),
    "test_templates": (
        "Suddenly {LEAVES} walked out of the {room}.",
        "At last {LEAVES} left the {room}.",
        "In a hurry {LEAVES} went out of the {room}.",
    ),
}
_ASK = {
    "train": (
        "The person in the {room} is",
        "The person who is still in the {room} is",
        "Now the only person in the {room} is",
        "The one in the {room} is",
    ),
    "validation_templates": ("The only one in the {room} is",),
    "test_templates": ("Now the person in the {room} is", "The one person in the {room} is"),
}
_CAME = ("came into", "entered", "walked into", "stepped into", "went into")
_LEFT = ("went out of", "left", "walked out of")


def still_there(prompt: str, names: Collection[str]) -> Candidates:
    """Return who is left after people came in and left, sentence by sentence."""
    present: list[str] = []
    *sentences, question = prompt.split(".")
    for sentence in sentences:
        who = names_in(sentence, names)
        came = any(f" {words} " in sentence for words in _CAME)
        left = any(f" {words} " in sentence for words in _LEFT)
        if came == left or not who:
            raise undetermined(prompt, "Let someone come in or leave in every sentence")
        present = [*present, *who] if came else [name for name in present if name not in who]
    if len(present) != 1 or names_in(question, names):
        raise undetermined(prompt, "Let all but one leave")
    return Candidates.of_words(present[0], names_in(prompt, names))


_TWO = {
    "roles": ("STAYS", "LEAVES"),
    "listed": ("STAYS", "LEAVES"),
    "answer": "STAYS",
    "solve": still_there,
    "families": {"subject": {"leaver_to_stayer": Change({"LEAVES": "STAYS"}, "LEAVES")}},
    "positions": ("STAYS", "LEAVES", "LEAVES_again"),
}
_THREE = {
    "roles": ("STAYS", "LEAVES1", "LEAVES2"),
    "listed": ("STAYS", "LEAVES1", "LEAVES2"),
    "answer": "STAYS",
    "solve": still_there,
    "families": {
        "subject": {
            "leaver1_to_stayer": Change({"LEAVES1": "STAYS"}, "LEAVES1"),
            "leaver2_to_stayer": Change({"LEAVES2": "STAYS"}, "LEAVES2"),
        }
    },
    "invariance": {"subject_order": {"LEAVES1": "LEAVES2", "LEAVES2": "LEAVES1"}},
    "positions": ("STAYS", "LEAVES1", "LEAVES2", "LEAVES1_again", "LEAVES2_again"),
}
_FIRST, _SECOND = (with_slot(_LEAVE, "LEAVES", f"{{LEAVES{i}}}") for i in (1, 2))

TASKS = (
    Story(
        name="leave2",
        question="Two people come in and one leaves: who is still there?",
        parts=(_ENTER, _LEAVE, _ASK),
        **_TWO,
    ).task(),
    Story(
        name="leave2_apart",
        question="Two people come in one after the other and one leaves: who is still there?",
        parts=(_ENTER_APART, _LEAVE, _ASK),
        **_TWO,
    ).task(),
    Story(
        name="leave2_noise",
        question="Two people come in, one leaves, and so does one who never came: who is there?",
        parts=(_ENTER, _LEAVE, with_slot(_LEAVE, "LEAVES", "{OTHER}"), _ASK),
        **{
            **_TWO,
            "roles": ("STAYS", "LEAVES", "OTHER"),
            "invariance": {"other_person": {"OTHER": SOMEONE}},
            "positions": ("STAYS", "LEAVES", "LEAVES_again", "OTHER"),
        },
    ).task(),
    Story(
        name="leave3",
        question="Three people come in and two leave one by one: who is still there?",
        parts=(_ENTER, _FIRST, _SECOND, _ASK),
        **_THREE,
    ).task(),
    Story(
        name="leave3_together",
        question="Three people come in and two leave together: who is still there?",
        parts=(_ENTER, with_slot(_LEAVE, "LEAVES", "{LEAVES1} and {LEAVES2}"), _ASK),
        **_THREE,
    ).task(),
)
