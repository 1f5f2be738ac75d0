"""How is an OpenAI-compatible server asked for items, and which items does its reply hold?

The ``openai`` client retries. The key is sent in the requests' header only: no error of the client
is shown, and every form of the key is redacted in what the server sends.
"""

import base64
import json
import random
import tomllib
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import quote

from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks.words import OBJECTS, PLACES
from circuitlapse.written.recipient import CLAIMS, LISTED, WrittenTask

try:
    import openai
except ImportError as error:
    raise CircuitlapseError(
        "`circuitlapse tasks write` needs the openai client",
        fix="Install it: pip install 'circuitlapse[write]'",
    ) from error

_SHORTEST_KEY = 8  # characters; a shorter key ("none") is a placeholder, not a secret
_DATA = tomllib.loads(files("circuitlapse.written").joinpath("request.toml").read_text("utf-8"))
_SCHEMA = {"name": "items", "strict": True, "schema": _DATA["schema"]}
#: Forms of reply, the strictest first. A server that rejects one is asked for the next.
_FORMS = ({"type": "json_schema", "json_schema": _SCHEMA}, {"type": "json_object"}, None)


class Request(NamedTuple):
    """A request of ``size`` items whose recipient has a ``position`` in the list, from 0.

    The ``number`` counts the requests of a journal and seeds places, objects and initials.
    """

    number: int
    task: WrittenTask
    size: int
    position: int

    def messages(self) -> list[dict[str, str]]:
        """Return the chat messages, the same for the same request."""
        rng = random.Random(f"{self.task} {self.number}")
        topics = [*rng.sample(PLACES, 4), *rng.sample(OBJECTS, 4)]
        slots = {
            "size": self.size,
            "count": LISTED[self.task],
            "position": ("first", "second", "third")[self.position],
            "topics": ", ".join(topics),
            "initials": ", ".join(rng.sample("ABCDEFGHIJKLMNOPRSTVWZ", 6)),
            "example": _DATA["examples"][self.task],
        }
        texts = _DATA["messages"].items()
        return [{"role": role, "content": text.format(**slots)} for role, text in texts]


class FailedError(Exception):
    """A request failed, all retries included."""


class Server:
    """A server and how to ask it.

    One attempt may take ``timeout`` seconds. The client waits up to 8 s before a retry, or as long
    as the server asks, up to two minutes. A longer wait counts as a failed request.
    """

    def __init__(
        self,
        model: str,
        key: str,
        base_url: str | None = None,
        timeout: float = 120.0,
        max_retries: int = 8,
    ) -> None:
        """Prepare a client for one event loop; the ``base_url`` is OpenAI's by default."""
        # A client's error would show a key that no header can hold.
        if not key or not all("!" <= character <= "~" for character in key):
            what = "the server's key is empty or has a space, a control character or no ASCII"
            raise CircuitlapseError(what, fix="Copy the key again, without line breaks")
        self.model, self.forms, self._key = model, list(_FORMS), key
        self.client = openai.AsyncOpenAI(
            api_key=key, base_url=base_url, timeout=timeout, max_retries=max_retries
        )

    async def ask(self, request: Request) -> str:
        """Return the text of a reply, or its body if it is no chat completion, without the key.

        Raises:
            FailedError: If all attempts failed.
            CircuitlapseError: If the server rejects the request for good.
        """
        while True:
            form = self.forms[0]
            options: dict[str, Any] = {} if form is None else {"response_format": form}
            options |= {"model": self.model, "messages": request.messages(), "temperature": 1.0}
            try:
                raw = await self.client.chat.completions.with_raw_response.create(**options)
                return self.without_key(_content(raw.text))
            except openai.OpenAIError as error:
                failure = error  # handled below, so that no traceback shows it
            status = getattr(failure, "status_code", 0)
            if status in (400, 422) and form is not None:
                self.forms = [other for other in self.forms if other is not form]
            elif 400 <= status < 500 and status not in (408, 409, 425, 429):
                raise CircuitlapseError(
                    f"the server rejects the request with status {status}",
                    fix="Check --model (404), --base-url (404) and the key's variable (401, 403)",
                )
            else:
                raise FailedError(self._why(failure))

    def _why(self, failure: openai.OpenAIError) -> str:
        if isinstance(failure, openai.APITimeoutError):
            return f"no reply within {self.client.timeout:g} s"
        if not isinstance(failure, openai.APIStatusError):
            return f"no connection ({type(failure.__cause__ or failure).__name__})"
        wait = failure.response.headers.get("retry-after", "")
        asked = f", which asks to wait {wait} s" if wait.isdecimal() and len(wait) < 7 else ""
        return f"status {failure.status_code}{asked}"

    def without_key(self, text: str) -> str:
        """Replace every form of the key in a text by ``[key]``."""
        raw = self._key.encode()
        forms = [self._key, json.dumps(self._key)[1:-1], quote(self._key, safe=""), raw.hex()]
        for form in [*forms, base64.b64encode(raw).decode().rstrip("=")]:
            text = text.replace(form, "[key]") if len(raw) >= _SHORTEST_KEY else text
        return text


def _content(body: str) -> str:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return body
    return content if isinstance(content, str) else ""  # a refusal has no content


def items_in(reply: str) -> list[dict[str, Any]]:
    """Return every object with a prompt and a recipient in a reply, however it is wrapped."""
    found: list[dict[str, Any]] = []

    def keep(value: dict[str, Any]) -> dict[str, Any]:
        if isinstance(value.get("prompt"), str) and isinstance(value.get("recipient"), str):
            found.append({key: value[key] for key in ("prompt", *CLAIMS) if key in value})
        return value

    decoder, at = json.JSONDecoder(object_hook=keep), reply.find("{")
    while at >= 0:
        n = len(found)
        try:
            _, end = decoder.raw_decode(reply, at)
        except (json.JSONDecodeError, RecursionError):
            del found[n:]
            end = at + 1
        at = reply.find("{", end)
    return found
