"""What a person types next: the last lines of a screen, each a command that can be copied as it stands.

Knows how a command is written, not which one helps: that is for the command whose screen it is.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from .rundir import shown


def command(verb: str, *words: str | Path) -> str:
    """`segwatch VERB WORDS`, as a shell takes it; paths as they are called from here."""
    return shlex.join(["segwatch", verb, *(shown(word) if isinstance(word, Path) else word for word in words)])


def block(*commands: str, heading: str = "Next:") -> str:
    """An empty line, the heading, and each command on a line of its own, with nothing else on it."""
    return "\n".join(["", heading, *(f"  {each}" for each in commands)])
