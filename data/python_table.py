"""Finds the class dictionary in a .py file of a research repository, and reads it without running a line of it.

Knows nothing about classes beyond how such a dictionary looks: `cmap = {0: {'name': 'water', 'RGB': [0, 0, 9]}}`.
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NAME_KEYS = frozenset({"name", "title"})
CHANGING = frozenset(
    {"update", "pop", "popitem", "setdefault", "clear", "reverse", "sort", "append", "extend", "insert"}
)
"""Methods of a dictionary or list after which its literal is no longer what the file means."""
PLAIN = (ast.Dict, ast.List, ast.Tuple, ast.Constant, ast.UnaryOp)
OWN_FILE = "copy the dictionary, written out, into a file of its own"


@dataclass(frozen=True)
class _Candidate:
    name: str
    line: int
    node: ast.Dict

    def __str__(self) -> str:
        return f"{self.name} (line {self.line})"


def read_dictionary(source: str) -> dict[int | str, Any]:
    """The one dictionary literal of `source` that looks like a class table: id -> entry.

    The file is parsed and never executed. Raises ValueError where there is no such literal, where several could be
    meant, where one key stands there twice (Python would keep the last), and where other code changes it.
    """
    tree = _parse(source)
    candidate = _the_one(list(_candidates(tree)), tree)
    _refuse_changes(candidate, tree)
    _refuse_code(candidate)
    _refuse_repeated(candidate)
    value: dict[int | str, Any] = ast.literal_eval(candidate.node)
    return value


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a "\d" elsewhere in the file is no matter of the class table
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ValueError(f"not Python: {error}") from error


def _candidates(tree: ast.Module) -> Iterator[_Candidate]:
    for name, value in _assignments(tree):
        if isinstance(value, ast.Dict) and value.keys and all(_is_id(key) for key in value.keys):
            yield _Candidate(name, value.lineno, value)


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets, value=value):
                yield from ((target.id, value) for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value


def _is_id(node: ast.expr | None) -> bool:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_id(operand)  # no id that can be used, but one that wants an answer
        case ast.Constant(value=str() as text):
            return text.isascii() and text.isdecimal()
        case ast.Constant(value=value):
            return type(value) is int
        case _:
            return False


def _the_one(candidates: list[_Candidate], tree: ast.Module) -> _Candidate:
    """What has names in its entries, before what only maps numbers to words."""
    looks = [candidate for candidate in candidates if all(_is_entry(value) for value in candidate.node.values)]
    words = [candidate for candidate in candidates if all(_is_word(value) for value in candidate.node.values)]
    found = looks or words or candidates
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"several dictionaries could be the class table: {', '.join(map(str, found))}; {OWN_FILE}")
    built = [f"{name} (line {value.lineno})" for name, value in _assignments(tree) if _is_built(value)]
    if built:
        raise ValueError(
            f"no dictionary of classes is written out: {', '.join(built)} is built by code, and segwatch never runs "
            f"the file; {OWN_FILE}"
        )
    raise ValueError("no dictionary such as cmap = {0: {'name': 'water', 'RGB': [0, 0, 255]}}")


def _is_entry(node: ast.expr) -> bool:
    if not isinstance(node, ast.Dict):
        return False
    keys = {str(key.value).lower() for key in node.keys if isinstance(key, ast.Constant)}
    return not keys.isdisjoint(NAME_KEYS)


def _is_word(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_built(node: ast.expr) -> bool:
    match node:
        case ast.DictComp():
            return True
        case ast.Call(func=ast.Name(id="dict" | "OrderedDict")):
            return True
        case ast.Dict(keys=keys):
            return None in keys or any(not isinstance(key, ast.Constant) for key in keys)
        case _:
            return False


def _refuse_code(candidate: _Candidate) -> None:
    for node in ast.walk(candidate.node):
        if isinstance(node, ast.expr) and not isinstance(node, PLAIN):
            raise ValueError(  # noqa: TRY004 - the file is wrong, not the type of an argument
                f"{candidate} holds code, `{ast.unparse(node)}` on line {node.lineno}, and segwatch never runs the "
                f"file: {OWN_FILE}"
            )


def _refuse_repeated(candidate: _Candidate) -> None:
    for node in ast.walk(candidate.node):
        if isinstance(node, ast.Dict):
            keys = Counter(key.value for key in node.keys if isinstance(key, ast.Constant))
            repeated = [f"{key!r} {times} times" for key, times in keys.items() if times > 1]
            if repeated:
                raise ValueError(f"{candidate.name} (line {node.lineno}) has the key {', '.join(repeated)}")


def _refuse_changes(candidate: _Candidate, tree: ast.Module) -> None:
    """A literal that later code completes or turns round is not what the repository trains with."""
    plainly = {line for node in ast.walk(tree) for line in _changes(node, candidate)}
    lines = sorted({*plainly, *_in_loops(tree, candidate)})
    if lines:
        raise ValueError(
            f"{candidate} is changed by code on line {', '.join(map(str, lines))}, and segwatch never runs the file: "
            f"{OWN_FILE}"
        )


def _in_loops(tree: ast.Module, candidate: _Candidate) -> Iterator[int]:
    """Lines that change an entry by the name that a loop over the dictionary gives it."""
    for loop in ast.walk(tree):
        if isinstance(loop, ast.For) and candidate.name in _names(loop.iter):
            nodes = [node for part in loop.body for node in ast.walk(part)]
            yield from (line for name in _names(loop.target) for node in nodes for line in _inside(node, name))


def _names(node: ast.expr) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _changes(node: ast.AST, candidate: _Candidate) -> Iterator[int]:
    yield from _inside(node, candidate.name)
    match node:
        case ast.AugAssign(target=ast.Name(id=name), lineno=line) if name == candidate.name:
            yield line
        case ast.Assign(targets=targets, value=value, lineno=line) if value is not candidate.node:
            if any(isinstance(target, ast.Name) and target.id == candidate.name for target in targets):
                yield line
        case _:
            return


def _inside(node: ast.AST, name: str) -> Iterator[int]:
    """A change of what a name stands for, rather than of the name."""
    match node:
        case ast.Subscript(ctx=ast.Store() | ast.Del(), lineno=line) if _root(node) == name:
            yield line
        case ast.Call(func=ast.Attribute(attr=method) as called, lineno=line) if method in CHANGING:
            if _root(called) == name:
                yield line
        case _:
            return


def _root(node: ast.expr) -> str | None:
    """The name that a chain such as `cmap[0]["RGB"].update` begins with."""
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
