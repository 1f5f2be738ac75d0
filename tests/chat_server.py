"""A server of chat completions on the loopback, which can be told to misbehave."""

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import permutations
from typing import Any

NAMES = ("Ana", "Ben", "Cleo", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jana", "Kai", "Lea")
_ORDERS = list(permutations(NAMES, 3))
_WORDS = ("first", "second", "third")


class ChatServer:
    """Writes sound items for whatever place of the list it is asked for, never the same twice.

    Attributes:
        fault: Called with the number of a request, from 0; what it names is done instead.
        dress: Makes a reply's text of its items.
        delay: Seconds before every answer.
        sent: Every item that went out in a whole reply, by its prompt.
        asked: Items asked for in requests that were answered whole.
        requests: How many requests came in.
        forms: The form of reply that each request asked for.
        keys: Every key that came with a request.
        busy: Requests that are being answered.
    """

    def __init__(self) -> None:
        self.fault: Callable[[int], str] = lambda number: ""
        self.dress: Callable[[list[dict[str, Any]]], str] = lambda items: json.dumps(
            {"items": items}
        )
        self.delay = 0.0
        self.sent: list[str] = []
        self.asked = self.requests = self.busy = 0
        self.forms: list[str | None] = []
        self.keys: set[str] = set()
        self.lock = threading.Lock()
        self.url = ""

    def items(self, n: int, place: int) -> list[dict[str, Any]]:
        with self.lock:
            start = self.asked
            self.asked += n
        written = []
        for names in (_ORDERS[(start + i) % len(_ORDERS)] for i in range(n)):
            first, second = (name for j, name in enumerate(names) if j != place)
            prompt = f"When {names[0]}, {names[1]} and {names[2]} met, {first} and {second} sang to"
            fields = {"listed": list(names), "acting": [first, second], "recipient": names[place]}
            written.append({"prompt": prompt, **fields})
        return written


@contextmanager
def serving() -> Iterator[ChatServer]:
    chat = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format, *args):
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with chat.lock:
                number = chat.requests
                chat.requests += 1
                chat.busy += 1
                chat.forms.append(body.get("response_format", {}).get("type"))
                chat.keys.add(self.headers["Authorization"].removeprefix("Bearer "))
            try:
                self.answer(body, chat.fault(number))
            except ConnectionError:
                pass  # a client that was killed, or waited no longer
            finally:
                with chat.lock:
                    chat.busy -= 1

        def answer(self, body: dict, fault: str) -> None:
            time.sleep(chat.delay)
            match fault:
                case "":
                    self.reply(body)
                case "busy":
                    self.send(429, b"{}", {"Retry-After": "0.02"})
                case "long wait":
                    self.send(429, b"{}", {"Retry-After": "300"})
                case "hang":
                    time.sleep(1.5)
                    self.close_connection = True
                case "cut":
                    self.send(200, b'{"choices": [{"mess', {"Content-Length": "5000"})
                    self.close_connection = True
                case "no json":
                    self.send(200, b"<html>busy</html>", {"Content-Type": "text/html"})
                case "no form" if body.get("response_format"):
                    self.send(400, b'{"error": {"message": "response_format is unknown"}}')
                case "no form":
                    self.reply(body)
                case "key":
                    error = f"wrong key {self.headers['Authorization']}"
                    self.send(401, json.dumps({"error": {"message": error}}).encode())
                case _:
                    self.send(
                        int(fault), b'{"error": {"message": "sorry"}}', {"Retry-After": "0.02"}
                    )

        def reply(self, body: dict) -> None:
            asked = body["messages"][-1]["content"]
            (n,) = re.findall(r"Write (\d+) items", asked)
            (place,) = re.findall(r"recipient is the (\w+) name", asked)
            items = chat.items(int(n), _WORDS.index(place))
            content = chat.dress(items)
            message = {"role": "assistant", "content": content}
            answer = {"id": "1", "object": "chat.completion", "choices": [{"message": message}]}
            self.send(200, json.dumps(answer).encode())
            with chat.lock:
                chat.sent += [item["prompt"] for item in items]

        def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            shown = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            self.send_response(status)
            for name, value in (shown | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def three_in_ten(seed: int = 0) -> Callable[[int], str]:
    """Fail 3 of every 10 requests, in every way there is, the same ones for the same seed."""
    rng = random.Random(seed)
    ways = ("busy", "500", "cut", "no json", "503", "hang")
    where = [10 * block + i for block in range(50) for i in rng.sample(range(10), 3)]
    fails = {number: ways[i % len(ways)] for i, number in enumerate(sorted(where))}
    return lambda number: fails.get(number, "")
