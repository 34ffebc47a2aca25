"""Where a notification goes: the name of a secret, never the secret. Knows nothing about what is told, or how.

The address of a channel (an apprise URL) holds a token, so run.toml only says where the address is: `env:NAME` or
`file:PATH`. Nothing here puts an address, or a piece of one, into a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, field_validator, model_validator

from ..errors import ConfigError
from ..section import Section
from .events import Severity
from .quiet import Hours

ENV, FILE = "env:", "file:"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ADDRESS_LIMIT_BYTES = 64 << 10
NO_LITERAL = (
    "an address holds a token, and run.toml is copied into the run directory: put the address into an environment "
    'variable and write "env:NAME", or into a file and write "file:/path" (what was written is not repeated here)'
)
IN_WORDS = (
    'a list of "env:NAME", "file:/path" and tables such as { url = "env:NAME", severity = "critical" }; severity is '
    'info, warning or critical, resolved and digest are true or false, quiet_hours is such as "22:00-07:00" (what was '
    "written is not repeated here: it may be a secret)"
)
"""What may stand in `alerts.notify`."""


class Channel(Section):
    """One place to tell. A text in the list stands for a table with this `url` alone."""

    model_config = ConfigDict(hide_input_in_errors=True)

    url: str
    """Where its apprise URL is: `env:NAME` or `file:PATH`."""
    severity: Severity = Severity.INFO
    """The least severity that it is told of."""
    resolved: bool = True
    """Whether it is told as well when an alert is over."""
    digest: bool | None = None
    """Whether it is told `alerts.daily_digest`; without it, where `severity` is info."""
    quiet_hours: Hours | None = None
    """Its own, in the place of `alerts.quiet_hours`; `""` for none."""

    @model_validator(mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _reference(cls, value: str) -> str:
        if value.startswith(ENV) and VARIABLE.fullmatch(value.removeprefix(ENV)):
            return value
        # A `file://` URL is apprise's way to write to a file; three slashes would otherwise look like our `file:/path`.
        if (
            value.startswith(FILE)
            and not value.startswith("file://")
            and value.isprintable()
            and len(value) > len(FILE)
        ):
            return value
        raise ValueError(NO_LITERAL)

    @property
    def variable(self) -> str | None:
        """The environment variable that holds the address, if one does."""
        return self.url.removeprefix(ENV) if self.url.startswith(ENV) else None

    def hears(self, severity: Severity) -> bool:
        order = list(Severity)
        return order.index(severity) >= order.index(self.severity)

    @property
    def hears_digest(self) -> bool:
        return self.digest if self.digest is not None else self.severity is Severity.INFO


def address(reference: str, base: Path, environment: Mapping[str, str]) -> str:
    """The secret behind `env:NAME` or `file:PATH`, relative to `base`. Raises ConfigError, which does not hold it."""
    if reference.startswith(ENV):
        name = reference.removeprefix(ENV)
        found = environment.get(name, "").strip()
        remedy = f"export {name}=… where segwatch is started"
    else:
        path = base / Path(reference.removeprefix(FILE)).expanduser()
        found, remedy = _first_line(path), "write the apprise URL into it"
    if not found:
        raise ConfigError(f"{reference} is empty or not set", where="alerts.notify", remedy=remedy)
    return found


def require_addresses(channels: Iterable[Channel], base: Path) -> None:
    """Raises ConfigError for all channels whose address is not to be had: better now than at 3 a.m."""
    refused: list[ConfigError] = []
    for channel in channels:
        try:
            address(channel.url, base, os.environ)
        except ConfigError as error:
            refused.append(error)
    if len(refused) == 1:
        raise refused[0]
    if refused:
        told = [f"  {error.what}: {error.remedy}" for error in refused]
        raise ConfigError(
            "\n".join([f"{len(refused)} addresses are not to be had:", *told]),
            where=refused[0].where,
            remedy="mend these, or take them out of the list",
        )


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(ADDRESS_LIMIT_BYTES)
        return next((line.strip() for line in content.decode().splitlines() if line.strip()), "")
    except OSError as error:
        raise ConfigError(
            f"file:{path} cannot be read: {error.strerror}",
            where="alerts.notify",
            remedy="write the apprise URL into it",
        ) from error
    except UnicodeDecodeError:
        return ""
