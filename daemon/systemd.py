"""`segwatch systemd`: a unit that trains a run.toml, printed. Installs nothing and asks systemd nothing.

What matters in it: `KillMode=process`, since a worker that outlives its daemon is adopted by the next one; no restart
after an exit code that says that trying again cannot help; and addresses of notifications in a file of their own.
"""

from __future__ import annotations

import getpass
import shlex
import sys
from pathlib import Path

from ..errors import UsageError
from .config import load_config

LEAVE_SECONDS = 30
"""On top of the worker's grace, for the daemon's own end."""
RESTART_SECONDS = 30
NO_RESTART = "1 2 78"
"""Gave up, usage, configuration or data wrong: none of them mends itself."""
STOPPED = "130 143"
"""By Ctrl-C or SIGTERM: that is how `segwatch stop` and `systemctl stop` end a run."""

UNIT = """\
# {path}
#
# Install: {prepare}{segwatch} systemd {shown}{flag} {into}
#          {systemctl} daemon-reload && {systemctl} enable --now {service}{linger}
# Look:    {systemctl} status {service}; segwatch status {run}
# Stop:    {systemctl} stop {service}     the worker saves at its next step, and leaves
# Replace the daemon alone, as after an upgrade; the next one adopts the worker, which trains on:
#          {systemctl} kill --kill-who=main --signal=SIGKILL {service}
# Addresses of notifications, a line each such as SLACK_URL=https://…, go into a file that only you can read:
#          {environment}

[Unit]
Description=segwatch: night watch of {name}
{after}
[Service]
Type=exec
{user}WorkingDirectory={directory}
ExecStart={command}
EnvironmentFile=-{environment}
# A worker outlives its daemon: what is started next adopts it. The default would kill both.
KillMode=process
# A worker that the kernel kills for memory is segwatch's to answer, not the end of the service.
OOMPolicy=continue
Restart=on-failure
RestartSec={restart}
RestartPreventExitStatus={no_restart}
SuccessExitStatus={stopped}
TimeoutStopSec={stop}
UMask=0022

[Install]
WantedBy={target}
"""


def unit(source: Path, *, name: str | None, runs_dir: Path, system: bool) -> str:
    """The whole unit. Raises ConfigError where run.toml is wrong: better now than in the log of a service."""
    config = load_config(source)
    source, runs_dir = source.resolve(), runs_dir.resolve()
    run = name or source.stem
    for text in (run, str(source), str(runs_dir), sys.executable):
        if not text.isprintable():
            raise UsageError(f"a path with a control character: {text!r}", remedy="systemd takes none: rename it")
    service = f"segwatch-{_service_name(run)}.service"
    path = Path("/etc/systemd/system" if system else "~/.config/systemd/user") / service
    program = Path(sys.executable).parent / "segwatch"
    command = [str(program), "run", str(source), "--name", run, "--runs-dir", str(runs_dir)]
    return UNIT.format(
        path=path,
        prepare="" if system else "mkdir -p ~/.config/systemd/user && ",
        into=f"| sudo tee {path}" if system else f"> {path}",
        segwatch=shlex.quote(str(program)),
        shown=shlex.join([str(source), "--name", run, "--runs-dir", str(runs_dir)]),
        flag=" --system" if system else "",
        systemctl="sudo systemctl" if system else "systemctl --user",
        linger="" if system else " && loginctl enable-linger",
        service=service,
        run=shlex.quote(str(runs_dir / run)),
        environment=_escaped(str(Path.home() / ".config" / "segwatch" / f"{_service_name(run)}.env")),
        name=_escaped(run),
        after="After=network-online.target local-fs.target\nWants=network-online.target\n" if system else "",
        user=f"User={getpass.getuser()}\n" if system else "",
        directory=_escaped(str(source.parent)),
        command=" ".join(_quoted(part) for part in command),
        restart=RESTART_SECONDS,
        no_restart=NO_RESTART,
        stopped=STOPPED,
        stop=round(config.watch.stop_grace_seconds) + LEAVE_SECONDS,
        target="multi-user.target" if system else "default.target",
    )


def _service_name(run: str) -> str:
    """What systemd takes in the name of a unit: systemd.unit(5)."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_.-") else "-" for letter in run)


def _escaped(text: str) -> str:
    """`%` begins a specifier everywhere in a unit."""
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """One word of a command line as systemd.service(5) splits it: quotes, backslashes, specifiers, variables."""
    escaped = _escaped(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"' if escaped != word or not word.replace("/", "").replace("-", "").isalnum() else word
