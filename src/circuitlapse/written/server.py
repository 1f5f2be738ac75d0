"""How is an OpenAI-compatible server asked for one reply?

The ``openai`` client retries. The key goes into the requests' header and nowhere else: no error of
the client is shown, and every form of the key is redacted in what the server sends.
"""

import base64
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from circuitlapse.errors import CircuitlapseError
from circuitlapse.written.request import FORMS, Request

try:
    import openai
except ImportError as error:
    raise CircuitlapseError(
        "having items written needs the openai client",
        fix="Install it: pip install 'circuitlapse[write]'",
    ) from error

_SHORTEST_KEY = 8  # characters; a shorter key ("none") is made up for a server that needs none


@dataclass(frozen=True)
class Server:
    """A server and how to ask it.

    The ``base_url`` is OpenAI's own by default. ``concurrency`` requests are sent at a time. One
    attempt may take ``timeout`` seconds. The client waits up to 8 s before a retry, or as long as
    the server asks, up to two minutes. A longer wait counts as a failed request.
    """

    model: str
    key: str = field(repr=False)
    base_url: str | None = None
    concurrency: int = 8
    timeout: float = 120.0
    max_retries: int = 8

    def __post_init__(self) -> None:
        """Refuse a key that no header can hold, since a client's error would show it."""
        if not self.key or not all("!" <= character <= "~" for character in self.key):
            what = "the server's key is empty or has a space, a control character or no ASCII"
            raise CircuitlapseError(what, fix="Copy the key again, without line breaks")

    def without_key(self, text: str) -> str:
        """Return a text in which every form of the key is replaced by ``[key]``."""
        raw = self.key.encode()
        forms = [self.key, json.dumps(self.key)[1:-1], quote(self.key, safe=""), raw.hex()]
        for form in [*forms, base64.b64encode(raw).decode().rstrip("=")]:
            text = text.replace(form, "[key]") if len(self.key) >= _SHORTEST_KEY else text
        return text


class FailedError(Exception):
    """A request failed, all retries included."""


class Client:
    """Sends requests, in one event loop."""

    def __init__(self, server: Server) -> None:
        """Prepare; nothing is sent yet."""
        self.server, self._form = server, 0
        self.openai = openai.AsyncOpenAI(
            api_key=server.key,
            base_url=server.base_url,
            timeout=server.timeout,
            max_retries=server.max_retries,
        )

    async def ask(self, request: Request) -> str:
        """Return the text of a reply, or its body if it is no chat completion, without the key.

        Raises:
            FailedError: If all attempts failed.
            CircuitlapseError: If the server refuses the request for good.
        """
        while True:
            form = self._form
            body, status, why = await self._attempt(request, FORMS[form])
            if status == 200:
                return self.server.without_key(_content(body))
            if status in (400, 422) and FORMS[form] is not None:
                self._form = max(self._form, form + 1)
            elif 400 <= status < 500 and status not in (408, 409, 425, 429):
                raise CircuitlapseError(
                    f"the server refuses the request with status {status}",
                    fix="Check --model (404), --base-url (404) and the key's variable (401, 403)",
                )
            else:
                raise FailedError(why)

    async def _attempt(self, request: Request, form: dict[str, Any] | None) -> tuple[str, int, str]:
        """Return the reply's body, its status (0 without a reply) and why it failed."""
        options = {"model": self.server.model, "messages": request.messages(), "temperature": 1.0}
        options |= {} if form is None else {"response_format": form}
        try:
            raw = await self.openai.chat.completions.with_raw_response.create(**options)
            return raw.text, 200, ""
        except openai.APIStatusError as error:
            wait = error.response.headers.get("retry-after", "")
            asked = f", which asks to wait {wait} s" if wait.isdecimal() and len(wait) < 7 else ""
            return "", error.status_code, f"status {error.status_code}{asked}"
        except openai.APITimeoutError:
            return "", 0, f"no reply within {self.server.timeout:g} s"
        except openai.OpenAIError as error:
            return "", 0, f"no connection ({type(error.__cause__ or error).__name__})"


def _content(body: str) -> str:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return body
    return content if isinstance(content, str) else ""  # a refusal has no content
