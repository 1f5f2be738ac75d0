"""What is the server asked for, and which items does its reply hold?"""

import json
import random
from typing import Any, NamedTuple

from circuitlapse.tasks.words import OBJECTS, PLACES
from circuitlapse.written.recipient import LISTED, WrittenTask

_PLACES = ("first", "second", "third")
_NAMES = ("Nora", "Hugo", "Iris")
_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_FIELDS = {"prompt": _TEXT, "listed": _TEXTS, "acting": _TEXTS, "recipient": _TEXT}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    rest = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **rest}


_SCHEMA = _object({"items": {"type": "array", "items": _object(_FIELDS)}})
#: Forms of reply, the strictest first. A server that refuses one is asked for the next.
FORMS: tuple[dict[str, Any] | None, ...] = (
    {"type": "json_schema", "json_schema": {"name": "items", "strict": True, "schema": _SCHEMA}},
    {"type": "json_object"},
    None,
)


class Request(NamedTuple):
    """A request of ``size`` items whose recipient has a ``position`` in the list, from 0.

    The ``number`` counts the requests of a journal. It draws places, objects and initials.
    """

    number: int
    task: WrittenTask
    size: int
    position: int

    def messages(self) -> list[dict[str, str]]:
        """Return the chat messages, the same for the same request."""
        rng, count = random.Random(f"{self.task} {self.number}"), LISTED[self.task]
        listed, acting = list(_NAMES[:count]), list(_NAMES[1:count])
        prompt = f"After {', '.join(listed[:-1])} and {listed[-1]} met, "
        prompt += f"{' and '.join(acting)} read a poem to"
        values = (prompt, listed, acting, listed[0])
        example = json.dumps({"items": [dict(zip(_FIELDS, values, strict=True))]})
        topics = [word for words in (PLACES, OBJECTS) for word in rng.sample(words, 4)]
        initials = rng.sample("ABCDEFGHIJKLMNOPRSTVWZ", 6)
        user = f"""Write {self.size} items.
- Each prompt first lists exactly {count} people by common first names of one word.
- Then all of them but one are named again as the only subject of a verb of giving or telling.
- It breaks off right before the one person who is left, after 'to' or 'for'.
- listed has the names in the list's order, acting those who act, recipient the one who is left.
- In every item the recipient is the {_PLACES[self.position]} name of the list.
- Name nobody else, and use no pronouns such as he, she, his or her.
- Vary the names, the wording and the order of the clauses; repeat no item.
- Let some names begin with {", ".join(initials)}; let the stories be about {", ".join(topics)}."""
        system = f"You write short test sentences. Reply with JSON alone, in this form: {example}"
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def items_in(reply: str) -> list[dict[str, Any]]:
    """Return every object with a prompt and a recipient in a reply, however it is wrapped."""
    decoder, found, at = json.JSONDecoder(), [], reply.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(reply, at)
            found += _items(value)
        except (json.JSONDecodeError, RecursionError):
            end = at + 1
        at = reply.find("{", end)
    return found


def _items(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        if isinstance(value.get("prompt"), str) and isinstance(value.get("recipient"), str):
            return [{key: value[key] for key in _FIELDS if key in value}]
        value = list(value.values())
    return [item for entry in value for item in _items(entry)] if isinstance(value, list) else []
