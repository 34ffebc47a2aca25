"""The fault matrix: each row is declared by the test that provokes it. Knows the words, not how a fault is made."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """What one row of docs/faults.md says of a fault."""

    name: str
    area: str
    fault: str
    promise: str
    """Of design section 11, "P4", or several of them, "P4 P6"."""
    provoked: str


def fault(name: str, *, area: str, fault: str, promise: str, provoked: str) -> pytest.MarkDecorator:
    """Declare a row. Plain strings only: the registry is read from the source, so that no test has to be imported.

    Several tests may share one row by declaring it in the same words.
    """
    return pytest.mark.fault(name=name, row=Row(name, area, fault, promise, provoked))


def declared_rows(directory: Path = HERE) -> list[Row]:
    """The registry: every row that a test of this directory declares, in the order of files and lines.

    Raises ValueError when one name stands for two rows.
    """
    rows: dict[str, Row] = {}
    for path in sorted(directory.glob("test_*.py")):
        for row in _declared_in(ast.parse(path.read_text(), filename=str(path))):
            if rows.setdefault(row.name, row) != row:
                raise ValueError(f"{path.name}: the row {row.name!r} is declared in two ways")
    return list(rows.values())


def _declared_in(module: ast.Module) -> Iterator[Row]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fault":
            name = ast.literal_eval(node.args[0])
            words = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
            yield Row(name, **words)
