"""The base of every configuration table and every record on disk: frozen, and strict about unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of run.toml. An unknown key is an error: a typo must not become a default."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, defer_build=True
    )


class Record(BaseModel):
    """A record that one process writes and another reads. Numbers are finite; unknown is `None`.

    Unknown keys are ignored, so that a run begun by a newer release can still be looked at.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, defer_build=True)
