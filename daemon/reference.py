"""docs/configuration.md, written from the configuration models: a table per section, a line per setting.

`python -m segwatch.daemon.reference` prints it; a test compares the page with this.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ..durable import dumps
from .config import RunConfig

HEADER = """\
# Configuration

Every setting of `run.toml`. Only `[data]` is required; the defaults are the careful ones. An unknown key is an error
that names the nearest known one, and all mistakes of a file are told at once.

Between two calls of `segwatch run`, these may be edited for a run that exists: `trainer.epochs`, `trainer.device`,
`trainer.threads`, `trainer.recovery_seconds`, and everything in `[evaluator]`, `[checkpoints]`, `[watch]`, `[alerts]`
and `[recovery]`. All else is what the run *is*: start another with `--name`. As long as nothing was trained, all may
change. After a run gave up, `--retry` also takes another `trainer.lr` or `trainer.amp`.

This page is made by `make docs` from the models in each room's `config.py`.
"""


def reference() -> str:
    """The whole page, as Markdown."""
    return HEADER + "".join(f"\n{part}" for part in _sections(RunConfig, ""))


def _sections(model: type[BaseModel], path: str) -> Iterator[str]:
    tables = {name: field for name, field in model.model_fields.items() if _model_of(field)}
    settings = {name: field for name, field in model.model_fields.items() if name not in tables}
    if settings:
        rows = [_row(name, field) for name, field in settings.items()]
        summary = _summary(model)
        head = [
            f"## `[{path}]`",
            "",
            *([summary, ""] if summary else []),
            "| setting | default | values | what it does |",
            "|---|---|---|---|",
        ]
        yield "\n".join([*head, *rows]) + "\n"
    for name, field in tables.items():
        table = _model_of(field)
        assert table is not None
        yield from _sections(table, f"{path}.{name}" if path else name)


def _summary(model: type[BaseModel]) -> str:
    inherited = {base.__doc__ for base in model.__mro__[1:]}
    return "" if model.__doc__ in inherited else " ".join((model.__doc__ or "").split())


def _row(name: str, field: FieldInfo) -> str:
    words = " ".join((field.description or "").split())
    return f"| `{name}` | {_default(field)} | {_values(field)} | {words} |".replace("\\|", "&#124;")


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "not set"
    return f"`{dumps(str(default) if isinstance(default, Path) else default)}`"


def _values(field: FieldInfo) -> str:
    limits = [_limit(entry) for entry in field.metadata]
    return " ".join([_type_words(field.annotation), *(limit for limit in limits if limit)])


def _limit(entry: Any) -> str:
    for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
        if hasattr(entry, name):
            return f"{sign} {getattr(entry, name):g}"
    return ""


def _type_words(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _type_words(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_words(part) for part in typing.get_args(annotation) if part is not type(None))
    if origin is list:
        return "list of " + _type_words(typing.get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return ", ".join(f"`{value}`" for value in annotation)
    return {Path: "path", float: "number", int: "whole number", str: "text", bool: "true, false"}.get(annotation, "")


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201 - printing is what it is for
