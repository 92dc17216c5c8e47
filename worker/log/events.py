"""Structured logs: one event per state change, as JSON on Cloud Run and as readable lines on a terminal.

Events contain only ids, codes, counts and durations, never prompts, image bytes, keys or personal data.
docs/logs.md lists all events.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from worker.log.mask import Mask

logger = logging.getLogger("worker")

_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound", default={})  # noqa: B039 - never changed in place


def event(name: str, /, *, level: str = "info", exc_info: bool = False, **fields: Any) -> None:
    """Log one event: a snake_case name and its fields, plus the fields of `bound`."""
    number = logging.getLevelNamesMapping()[level.upper()]
    logger.log(number, name, exc_info=exc_info, extra={**_bound.get(), **fields}, stacklevel=2)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add fields to every event in this block, also in tasks that it starts."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def set_up(env: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Send all logs to stderr, as JSON on Cloud Run (K_SERVICE, CLOUD_RUN_JOB) or with LOG_FORMAT=json.

    Masks the secrets of `env` in every record, also in exceptions and in the logs of libraries.
    """
    hosted = bool(env.get("K_SERVICE") or env.get("CLOUD_RUN_JOB"))
    as_json = env.get("LOG_FORMAT", "json" if hosted else "line").lower() == "json"
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_formatter(as_json, env, handler.stream))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    wished = env.get("LOG_LEVEL", "INFO").upper()
    logger.setLevel(logging.getLevelNamesMapping().get(wished, logging.INFO))


def _formatter(as_json: bool, env: Mapping[str, str], stream: TextIO) -> logging.Formatter:
    # Each formatter imports a library; a cold start should load only the one it uses.
    if as_json:
        from worker.log.json_lines import JsonLines

        return JsonLines(Mask(env), env)
    from worker.log.terminal_lines import TerminalLines

    return TerminalLines(Mask(env), stream)
