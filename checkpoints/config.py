"""The `[checkpoints]` table of run.toml: what is kept. No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..section import Section


class CheckpointConfig(Section):
    keep_epochs: Annotated[int, Field(ge=1)] | None = None
    """Keep the weights of this many newest epochs; without it, of all. Whatever it says, these stay: epochs not yet
    evaluated, the newest two verified good, best by val, best by test."""
