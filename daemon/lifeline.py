"""Says before a long run what its terminal may do to it. PURE, but for the terminal itself."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

KEPT_BY = ("TMUX", "STY", "ZELLIJ", "INVOCATION_ID")
"""What tmux, screen, zellij and systemd put into the environment of what they keep alive."""
REMOTE = ("SSH_CONNECTION", "SSH_TTY", "MOSH_CONNECTION")


def hint(
    source: Path,
    name: str | None,
    runs_dir: Path,
    environment: Mapping[str, str] = os.environ,
    *,
    terminal: bool | None = None,
) -> str | None:
    """A sentence where the run hangs on a connection; `None` where it is kept, local, or nobody looks.

    The daemon outlives its terminal by itself (SIGHUP is ignored); what ends it then is a system that ends all
    processes of a session that was left.
    """
    looked_at = sys.stdin.isatty() if terminal is None else terminal
    if not looked_at or any(environment.get(name) for name in KEPT_BY):
        return None
    if not any(environment.get(name) for name in REMOTE):
        return None
    asked = [] if name is None else ["--name", name]
    asked += [] if str(runs_dir) == "runs" else ["--runs-dir", str(runs_dir)]
    words = shlex.join([str(source), *asked])
    return (
        "hint: this terminal hangs on a connection. A lost one does not stop the run, unless the system ends what a "
        "login leaves behind (KillUserProcesses=yes), but nobody sees this screen again. Better: "
        f"tmux new -s segwatch segwatch run {words}; or as a service: segwatch systemd {words}"
    )
