"""The events that the code logs, read from its source: names, severities, fields."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "main.py", *sorted((ROOT / "worker").rglob("*.py")))
JOB_ENDS = ("completed", "failed", "pending", "rate_limited", "lease_lost")
"""What `job_{…}` may be: the statuses that a settlement leaves, and a lease that was lost."""

NO_FIELDS = {"level", "exc_info"}
LOGS = re.compile(r"\blog\.event\(")


class Event(NamedTuple):
    """An event's severities, and its fields; `**` stands for a summary's fields."""

    levels: frozenset[str]
    fields: frozenset[str]


@functools.cache
def events() -> dict[str, Event]:
    """Every event by its name; one that is logged in several places has what any of them gives."""
    found: dict[str, Event] = {}
    for text in filter(LOGS.search, (path.read_text() for path in SOURCES)):
        for function in _functions(ast.parse(text)):
            for call in _calls(function):
                event = Event(_levels(call, function), _fields(call))
                for name in _names(call):
                    known = found.get(name, Event(frozenset(), frozenset()))
                    found[name] = Event(known.levels | event.levels, known.fields | event.fields)
    return found


def _functions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _calls(function: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(function):
        match node:
            case ast.Call(ast.Attribute(ast.Name("log"), "event")):
                yield node


def _names(call: ast.Call) -> list[str]:
    name = call.args[0]
    if isinstance(name, ast.Constant):
        return [str(name.value)]
    assert isinstance(name, ast.JoinedStr), f"events() cannot read {ast.unparse(call)}"
    assert ast.unparse(name).startswith('f"job_{') or ast.unparse(name).startswith("f'job_{")
    return [f"job_{end}" for end in JOB_ENDS]


def _levels(call: ast.Call, function: ast.AST) -> frozenset[str]:
    given = [word.value for word in call.keywords if word.arg == "level"]
    if not given:
        return frozenset({"info"})
    if isinstance(given[0], ast.Name):
        values = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == given[0].id
        ]
    else:
        values = [given[0]]
    names = [part.value for value in values for part in _results(value)]
    return frozenset(str(name) for name in names)


def _results(value: ast.expr) -> Iterator[ast.Constant]:
    if isinstance(value, ast.IfExp):
        yield from (*_results(value.body), *_results(value.orelse))
    else:
        assert isinstance(value, ast.Constant), ast.unparse(value)
        yield value


def _fields(call: ast.Call) -> frozenset[str]:
    return frozenset(word.arg or "**" for word in call.keywords if word.arg not in NO_FIELDS)
