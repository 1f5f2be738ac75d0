"""What is asked of the server, and how its reply is read."""

import json
import random
from dataclasses import dataclass
from typing import Any

from circuitlapse.tasks.words import OBJECTS, PLACES
from circuitlapse.tasks.written.judge import LISTED, WrittenTask

_PLACES = {2: ("first", "second"), 3: ("first", "second", "third")}
_EXAMPLES = {
    2: ("When Nora and Hugo left the theater, Hugo handed the keys to", "Nora"),
    3: ("While Nora, Hugo and Iris waited for the bus, Iris and Nora read a poem to", "Hugo"),
}
_LETTERS = "ABCDEFGHIJKLMNOPRSTVWZ"

#: The form that servers with structured output are held to.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"prompt": {"type": "string"}, "completion": {"type": "string"}},
                "required": ["prompt", "completion"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["items"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Ask:
    """One request for items.

    Attributes:
        number: Counts the requests of a journal, from 0; draws places, objects and initials.
        task: The task.
        size: How many items are asked for.
        position: Where in the list the answer must stand, from 0.
    """

    number: int
    task: WrittenTask
    size: int
    position: int

    def messages(self) -> list[dict[str, str]]:
        """Return the chat messages, the same for the same request."""
        rng = random.Random(f"{self.task} {self.number}")
        count = LISTED[self.task]
        acting = "another one of them is" if count == 2 else "the two others are"
        places, objects = (rng.sample(words, 4) for words in (PLACES, OBJECTS))
        prompt, completion = _EXAMPLES[count]
        rules = [
            f"Each prompt first lists exactly {count} people by common first names of one word.",
            f"Then {acting} named again as the only subject of a verb of giving, telling or the "
            "like.",
            "It breaks off right before the one person who is left, mostly after 'to' or 'for'; "
            "the completion is that person's name.",
            f"In every item the completion is the {_PLACES[count][self.position]} name of the "
            "list.",
            "Name nobody else, and use no pronouns such as he, she, his or her.",
            "Vary the names, the wording and the order of the clauses; repeat no item.",
            f"Let some names begin with {', '.join(rng.sample(_LETTERS, 6))}; let the stories "
            f"touch on {', '.join([*places, *objects])}.",
        ]
        example = json.dumps({"items": [{"prompt": prompt, "completion": completion}]})
        return [
            {
                "role": "system",
                "content": "You write short test sentences. Reply with JSON alone, in the form of "
                f"this example: {example}",
            },
            {
                "role": "user",
                "content": f"Write {self.size} items.\n" + "\n".join(f"- {r}" for r in rules),
            },
        ]


def items_in(reply: str) -> list[tuple[str, str]]:
    """Find every object with a prompt and a completion in a reply, however it is wrapped.

    Fences, prose around the JSON, one object a line, and an end that was cut off are all read past.

    Args:
        reply: What the server sent.
    """
    decoder, found, at = json.JSONDecoder(), [], reply.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(reply, at)
            found += _pairs(value)
        except (json.JSONDecodeError, RecursionError):
            end = at + 1
        at = reply.find("{", end)
    return found


def _pairs(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, list):
        return [pair for entry in value for pair in _pairs(entry)]
    if not isinstance(value, dict):
        return []
    prompt = value.get("prompt", value.get("question"))
    completion = value.get("completion", value.get("answer"))
    if isinstance(prompt, str) and isinstance(completion, str):
        return [(prompt, completion)]
    return _pairs(list(value.values()))
