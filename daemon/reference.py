"""docs/configuration.md, written from the configuration models: a table per section, a line per setting.

`python -m segwatch.daemon.reference` prints it; a test compares the page with this.
"""

from __future__ import annotations

import itertools
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
`trainer.threads`, `trainer.recovery_seconds`, `evaluator.device`, `evaluator.batch_size`, `evaluator.threads`,
`evaluator.timeout_seconds`, and everything in `[checkpoints]`, `[watch]`, `[alerts]` and `[recovery]`. All else is what
the run *is*: start another with `--name`. As long as nothing was trained, all may change. After a run gave up,
`--retry` also takes another `trainer.lr` or `trainer.amp`.

This page is made by `make docs` from the models in each room's `config.py`.
"""


def reference() -> str:
    """The whole page, as Markdown."""
    return HEADER + "".join(f"\n{part}" for part in _sections(RunConfig, ()))


def _sections(model: type[BaseModel], paths: tuple[str, ...]) -> Iterator[str]:
    """The settings of one table, which may stand under several `paths`, and of those inside it."""
    tables = {name: table for name, field in model.model_fields.items() if (table := _model_of(field)) is not None}
    settings = {name: field for name, field in model.model_fields.items() if name not in tables}
    if settings:
        rows = [_row(name, field) for name, field in settings.items()]
        summary = _summary(model)
        head = [
            "## " + ", ".join(f"`[{path}]`" for path in paths),
            "",
            *([summary, ""] if summary else []),
            "| setting | default | values | what it does |",
            "|---|---|---|---|",
        ]
        yield "\n".join([*head, *rows]) + "\n"
    for table, group in itertools.groupby(tables, key=lambda name: tables[name]):
        names = tuple(group)
        yield from _sections(table, tuple(f"{path}.{name}" for path in paths for name in names) or names)


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
    return " ".join([_type_words(field.annotation), *_limits(field.metadata)])


def _limits(metadata: list[Any]) -> Iterator[str]:
    """`> 0` and such, however deep pydantic keeps them."""
    for entry in metadata:
        if isinstance(entry, FieldInfo):
            yield from _limits(entry.metadata)
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            if getattr(entry, name, None) is not None:
                yield f"{sign} {getattr(entry, name):g}"


def _type_words(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        kind, *metadata = typing.get_args(annotation)
        return " ".join([_type_words(kind), *_limits(metadata)])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_words(part) for part in typing.get_args(annotation) if part is not type(None))
    if origin is list:
        return "list: " + _type_words(typing.get_args(annotation)[0])
    if origin is tuple and typing.get_args(annotation)[1:] == (...,):
        return f"list: {_type_words(typing.get_args(annotation)[0])}"
    if origin is tuple:
        return f"list of {len(typing.get_args(annotation))}: {_type_words(typing.get_args(annotation)[0])}"
    if origin is dict:
        key, value = typing.get_args(annotation)
        return f"table: {_type_words(key)} = {_type_words(value)}"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return ", ".join(f"`{value}`" for value in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "text or table: " + ", ".join(annotation.model_fields)
    return {Path: "path", float: "number", int: "whole number", str: "text", bool: "true, false"}.get(annotation, "")


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    """The table that a setting is; also one that may be left out."""
    if typing.get_origin(field.annotation) is tuple:
        return None  # a list of tables is told as one setting
    for annotation in (field.annotation, *typing.get_args(field.annotation)):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
    return None


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201 - printing is what it is for
