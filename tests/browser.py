"""A headless Chromium, spoken to over two pipes: no port, no driver, no library. For tests only."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
POLL_SECONDS = 0.2
# Web components hide their text from `document.body.innerText`: it is gathered through every shadow root.
TEXT = """
(function gather(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.textContent;
  if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.nodeName)) return "";
  const below = [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes];
  return below.map(gather).join(" ");
})(document.body)
"""
# Curves of TensorBoard's charts that go through more than one point.
CURVES = """
(function count(node) {
  const own = node.nodeName === "path" && node.matches(".line") && /L/.test(node.getAttribute("d") || "") ? 1 : 0;
  const below = [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes];
  return below.reduce((sum, child) => sum + count(child), own);
})(document.body)
"""
# The colours of the curves of each chart, in the order of the page.
COLOURS = """
(function charts(node) {
  const lines = (below) => [
    ...(below.nodeName === "path" && below.matches(".line") ? [getComputedStyle(below).stroke] : []),
    ...[...(below.shadowRoot ? [below.shadowRoot] : []), ...below.childNodes].flatMap(lines),
  ];
  if (/^TF-CUSTOM-SCALAR-.*-CHART-CARD$/.test(node.nodeName)) return [lines(node)];
  return [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes].flatMap(charts);
})(document.body)
"""


def find_browser() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of one browser."""

    def __init__(self, program: str, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # Chromium reads file descriptor 3 and writes 4.
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                shell,
                "browser",
                program,
                *options,
                f"--user-data-dir={profile}",
                "--window-size=1400,1500",
            ],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb", buffering=0)
        self._numbers = itertools.count(1)
        self._rest = b""
        self.events: list[dict[str, Any]] = []
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.send(f"{domain}.enable")

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def text(self) -> str:
        """All that stands on the page, in one line."""
        return " ".join((self.evaluate(TEXT) or "").split())

    def waits_for(self, *words: str, seconds: float = 90) -> str:
        """The text of the page once it holds all of `words`."""
        pause, deadline = threading.Event(), time.monotonic() + seconds
        while any(word not in (text := self.text()) for word in words):
            missing = [word for word in words if word not in text]
            assert time.monotonic() < deadline, f"never came: {missing}; there is: {text[:3000]}"
            pause.wait(POLL_SECONDS)
        return text

    def curves(self, at_least: int, *, seconds: float = 60) -> int:
        """How many curves TensorBoard has drawn, once there are so many."""
        pause, deadline = threading.Event(), time.monotonic() + seconds
        while (found := self.evaluate(CURVES)) < at_least:
            assert time.monotonic() < deadline, f"{found} curves are drawn"
            pause.wait(POLL_SECONDS)
        return int(found)

    def colours(self) -> list[set[str]]:
        """For each of TensorBoard's charts, as CSS says them."""
        return [set(found) - {"none"} for found in self.evaluate(COLOURS)]

    def coloured(self, holds: Callable[[list[set[str]]], bool], *, seconds: float = 60) -> list[set[str]]:
        """The same once `holds` is true of it: TensorBoard draws one curve after the other."""
        pause, deadline = threading.Event(), time.monotonic() + seconds
        while not holds(found := self.colours()):
            assert time.monotonic() < deadline, f"the charts are drawn in {found}"
            pause.wait(POLL_SECONDS)
        return found

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._send(method, session=self._session, **parameters)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._out.close()

    def _send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._in.read1(1 << 16)
            assert more, "the browser is gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
