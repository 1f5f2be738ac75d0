"""Indirect object identification in other clause orders than ``ioi2`` and ``ioi3`` have.

``_apart``: the people are named in separate clauses instead of one list. ``_before``: those who act
are named before the list. ``ioi3_home``: two go out, the third stays at home and is the
recipient. The embedded organism's pretraining text has none of these wordings.
"""

from collections import Counter
from collections.abc import Collection

from circuitlapse.tasks.story import Change, Part, Story, with_slot
from circuitlapse.tasks.task import GeneratedTask
from circuitlapse.tasks.validation import Candidates, names_in, undetermined

_APART2 = {
    "train": (
        "At the {place} {1} met {2}.",
        "Then {1} came to the {place}, and {2} came later.",
        "When {1} went to the {place} {2} was there.",
        "Today {1} had lunch with {2} at the {place}.",
    ),
    "validation_templates": ("In the {place} {1} waited for {2}.",),
    "test_templates": (
        "On the way to the {place} {1} saw {2}.",
        "Last night {1} was at the {place}, and so was {2}.",
    ),
}
_APART3 = {
    "train": (
        "At the {place} {1} met {2} and {3}.",
        "Then {1} and {2} came to the {place}, and {3} came later.",
        "When {1} went to the {place} {2} was there, and so was {3}.",
        "Today {1} had lunch with {2} at the {place}, and {3} joined in.",
    ),
    "validation_templates": ("In the {place} {1} waited for {2}, and later for {3}.",),
    "test_templates": (
        "On the way to the {place} {1} saw {2}, who was with {3}.",
        "Last night {1} was at the {place}, and so were {2} and {3}.",
    ),
}
_HOME = {
    "train": (
        "After {list} went to the {place}, {IO} stayed at home.",
        "While {IO} stayed at home, {list} went to the {place}.",
        "Today {list} were at the {place}, but {IO} stayed at home.",
        "Because {IO} was tired, {list} went to the {place} alone.",
    ),
    "validation_templates": ("Since {IO} was ill, {list} walked to the {place} alone.",),
    "test_templates": (
        "When {list} left for the {place}, {IO} did not come with them.",
        "Although {IO} stayed in bed, {list} went to the {place}.",
    ),
}
_GIVE = {
    "train": (
        "{ACT} gave a {object} to",
        "Then {ACT} gave the {object} to",
        "Later {ACT} bought a {object} for",
        "In the end {ACT} handed a {object} to",
        "After some time {ACT} sent a {object} to",
    ),
    "validation_templates": ("Soon {ACT} brought a {object} to",),
    "test_templates": ("With a smile {ACT} passed the {object} to", "{ACT} found a {object} for"),
}
_BEFORE = {
    "train": (
        "With a {object} of {ACT} there was a surprise when {list} met at the {place}. It was for",
        "A present from {ACT} was there when {list} came to the {place}, and the {object} was for",
        "Once {ACT} had wrapped the {object}, {list} met at the {place}. The present was for",
        "The {object} that {ACT} had bought was there when {list} came to the {place}. It was for",
    ),
    "validation_templates": (
        "Long after {ACT} had found the {object}, {list} met at the {place}. The {object} went to",
    ),
    "test_templates": (
        "Before noon {ACT} made a {object}. Then {list} met at the {place}. The {object} was for",
        "As {ACT} had a {object} to give when {list} were at the {place}, the {object} went to",
    ),
}


def named_once(prompt: str, names: Collection[str]) -> Candidates:
    """Return the one name that is named once; all others are named twice."""
    count = Counter(names_in(prompt, names))
    once = [name for name, times in count.items() if times == 1]
    if len(once) != 1 or len(count) < 2 or max(count.values()) > 2:
        raise undetermined(prompt, "Name all people twice but the recipient")
    return Candidates.of_words(once[0], count)


def _ioi(
    name: str,
    question: str,
    parts: tuple[Part, ...],
    subjects: tuple[str, ...],
    listed: tuple[str, ...] = (),
) -> GeneratedTask:
    roles, act = ("IO", *subjects), " and ".join(f"{{{subject}}}" for subject in subjects)
    orders = {"subject_order": dict(zip(subjects, subjects[::-1], strict=True))}
    return Story(
        name=name,
        question=question,
        parts=tuple(with_slot(part, "ACT", act) for part in parts),
        roles=roles,
        listed=listed or roles,
        answer="IO",
        solve=named_once,
        families={"subject": {f"{s.lower()}_to_io": Change({s: "IO"}, s) for s in subjects}},
        invariance=orders if len(subjects) > 1 else {},
        positions=(*roles, *(f"{subject}_again" for subject in subjects)),
    ).task()


_ONE, _TWO = ("S",), ("S1", "S2")
TASKS = (
    _ioi(
        "ioi2_apart",
        "Two people are named in separate clauses and one of them acts: who is the recipient?",
        (_APART2, _GIVE),
        _ONE,
    ),
    _ioi(
        "ioi3_apart",
        "Three people are named in separate clauses and two of them act: who is the recipient?",
        (_APART3, _GIVE),
        _TWO,
    ),
    _ioi(
        "ioi2_before",
        "One acts, then two people are listed: who is the recipient?",
        (_BEFORE,),
        _ONE,
    ),
    _ioi(
        "ioi3_before",
        "Two act, then three people are listed: who is the recipient?",
        (_BEFORE,),
        _TWO,
    ),
    _ioi(
        "ioi3_home",
        "Two people go out, one stays at home and the two act: who is the recipient?",
        (_HOME, _GIVE),
        _TWO,
        listed=_TWO,
    ),
)
