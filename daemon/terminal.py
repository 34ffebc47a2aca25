"""A terminal that may close, a pipe that nobody reads: printing there ends nothing and carries nothing but text.

Knows nothing about what is printed, and is quick to import: every command that only prints needs it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from ..plain import plain

log = logging.getLogger(__name__)


@contextmanager
def nobody_may_look() -> Iterator[None]:
    """A terminal that was closed or a pipe that nobody reads ends no night watch: all facts are in files."""
    try:
        yield
    except OSError as error:
        log.info("nobody looks any more: %s", error)
        look_away()


class Terminal(Console):
    """A console that goes quiet when its reader leaves; rich's own ends the program, with exit code 1.

    What it prints holds no control characters but its own: class and file names are somebody else's.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.push_render_hook(_PlainText())

    def on_broken_pipe(self) -> None:
        self.quiet = True
        look_away()


def look_away() -> None:
    """What is still in the buffers goes nowhere: flushed at exit, it would spoil the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _PlainText(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Plain(each) for each in renderables]


class _Plain:
    """A renderable whose texts, once laid out, hold nothing but text; colours are rich's and stay."""

    def __init__(self, inside: ConsoleRenderable) -> None:
        self._inside = inside

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._inside, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)
