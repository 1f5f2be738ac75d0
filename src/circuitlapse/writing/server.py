"""Ask an OpenAI-compatible server for one reply, and ask again where it fails."""

import asyncio
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from circuitlapse.errors import CircuitlapseError
from circuitlapse.writing.wording import SCHEMA, Ask

try:
    import openai
except ImportError as error:
    raise CircuitlapseError(
        "having items written needs the openai client",
        fix="Install it: pip install 'circuitlapse[write]'",
    ) from error

#: From the strictest form of reply to none, each taken where the server refuses the one before.
_FORMS: tuple[dict[str, Any] | None, ...] = (
    {"type": "json_schema", "json_schema": {"name": "items", "strict": True, "schema": SCHEMA}},
    {"type": "json_object"},
    None,
)
_LONGEST_BACKOFF = 60.0  # seconds
_SHORTEST_KEY = 8  # shorter ones ("none") are made up for servers that need no key
_PASSING = {408, 409, 425, 429}  # and all from 500 on


@dataclass(frozen=True)
class Server:
    """A server and how to deal with it.

    Attributes:
        model: The model's name there.
        key: The key; it goes into the requests' header and nowhere else.
        base_url: Such as ``http://localhost:8000/v1``; OpenAI's own where it is not given.
        concurrency: How many requests may be under way at a time.
        timeout: Seconds that one attempt may take.
        attempts: How often a request is tried before it counts as failed.
        wait: Seconds before the second attempt, doubled for each further one up to 60, with jitter.
        longest_wait: The most seconds to wait where the server asks for a time (``Retry-After``).
    """

    model: str
    key: str = field(repr=False)
    base_url: str | None = None
    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 8
    wait: float = 1.0
    longest_wait: float = 600.0


class FailedError(Exception):
    """A request was given up on after all its attempts."""


class Client:
    """Sends requests; to be used within one event loop, as ``async with``."""

    def __init__(self, server: Server) -> None:
        """Prepare; nothing is sent yet."""
        self.server = server
        self._form = 0
        self._openai = openai.AsyncOpenAI(
            api_key=server.key, base_url=server.base_url, timeout=server.timeout, max_retries=0
        )

    async def __aenter__(self) -> "Client":
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._openai.close()

    async def ask(self, ask: Ask) -> str:
        """Return the text of a reply; the key is blanked out should it be in there.

        Raises:
            FailedError: If all attempts failed.
            CircuitlapseError: If the server refuses the request for good: a wrong key, an unknown
                model.
        """
        attempt = 0
        while True:
            form, wanted = self._form, 0.0
            try:
                return self._without_key(await self._attempt(ask, _FORMS[form]))
            except openai.APIStatusError as error:
                status = error.status_code
                if status in (400, 422) and _FORMS[form] is not None:
                    self._form = max(self._form, form + 1)
                    continue
                if status < 500 and status not in _PASSING:
                    raise self._refused(error) from None
                reason, wanted = f"status {status}", _asked_wait(error.response.headers)
            except openai.APITimeoutError:
                reason = f"no reply within {self.server.timeout:g} s"
            except openai.OpenAIError as error:
                cause = error.__cause__ or error
                reason = f"{type(cause).__name__}: {cause}"
            except ValueError as error:
                reason = str(error)
            attempt += 1
            if attempt >= self.server.attempts:
                raise FailedError(self._without_key(reason)[:300])
            backoff = min(self.server.wait * 2 ** (attempt - 1), _LONGEST_BACKOFF)
            asked = min(wanted, self.server.longest_wait)
            await asyncio.sleep(max(backoff * random.uniform(0.5, 1.0), asked))

    async def _attempt(self, ask: Ask, form: dict[str, Any] | None) -> str:
        options: dict[str, Any] = {"messages": ask.messages(), "temperature": 1.0}
        if form is not None:
            options["response_format"] = form
        raw = await self._openai.chat.completions.with_raw_response.create(
            model=self.server.model, **options
        )
        try:
            content = json.loads(raw.text)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError("the reply is no chat completion in JSON") from error
        return content if isinstance(content, str) else ""  # a refusal has no content

    def _refused(self, error: openai.APIStatusError) -> CircuitlapseError:
        return CircuitlapseError(
            f"the server refused the request with status {error.status_code}",
            got=self._without_key(error.message)[:300],
            fix="Check --model, --base-url and the key's variable",
        )

    def _without_key(self, text: str) -> str:
        key = self.server.key
        return text.replace(key, "[key]") if len(key) >= _SHORTEST_KEY else text


def _asked_wait(headers: Mapping[str, str]) -> float:
    """Seconds that ``Retry-After`` asks to wait, as a number or a date; 0 without it."""
    asked = headers.get("retry-after", "")
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(asked).timestamp() - time()
        except ValueError:
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
