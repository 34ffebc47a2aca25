"""Endpoints of notifications as they really are: one that takes everything, and four that do not. For tests only."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Mood = Literal["well", "black-hole", "429", "slow"]


class Endpoint:
    """An HTTP server on the loopback that takes what apprise's `json://` sends, in the mood that it is in."""

    def __init__(self, token: str, mood: Mood = "well") -> None:
        self.token = token
        self.mood = mood
        self.taken: list[dict] = []
        self.refused = 0
        """Deliveries that were begun and not taken."""
        self.released = threading.Event()
        """Ends the wait of everyone who waits here for ever."""
        self.refuse: str | None = None
        """What is in the title of a message that is answered 400."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.port}/{self.token}"

    def start(self) -> None:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                endpoint.answer(self)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        mood = self.mood
        if mood != "well":
            self.refused += 1
        if mood == "black-hole":
            self.released.wait(60)
            return
        if mood == "slow":  # a byte at a time keeps every read timeout happy
            handler.wfile.write(b"HTTP/1.0 503 ")
            try:
                while not self.released.wait(0.3):
                    handler.wfile.write(b"X")
            except OSError:
                return
            return
        status = 429 if mood == "429" else 400 if self.refuse and self.refuse in body["title"] else 200
        if status == 200:
            self.taken.append(body)
        handler.send_response(status)
        if mood == "429":
            handler.send_header("Retry-After", "1")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def recover(self) -> None:
        """From here on everything is taken."""
        self.mood = "well"
        self.released.set()
        if self._server is None:
            self.start()

    def stop(self) -> None:
        self.released.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def titles(self) -> list[str]:
        """What was taken, without the name of the run."""
        return [body["title"].split(": ", 1)[1] for body in self.taken]

    def ids(self) -> Counter[str]:
        """How often each id was taken."""
        return Counter(re.search(r"^id: ([0-9a-f]{16})$", body["message"], re.MULTILINE)[1] for body in self.taken)
