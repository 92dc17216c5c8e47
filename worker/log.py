"""Structured logs: one record per state change; JSON on Cloud Run, readable lines on a terminal.

Never carries prompt text, image bytes, keys or personal data: ids, codes, counts and durations only.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from worker.mask import Mask

logger = logging.getLogger("worker")

_bound: ContextVar[Mapping[str, Any]] = ContextVar("bound", default={})  # noqa: B039 - never changed in place

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def event(name: str, /, *, level: str = "info", exc_info: bool = False, **fields: Any) -> None:
    """Log one event: a snake_case name and its fields, with those bound around it."""
    number = logging.getLevelNamesMapping()[level.upper()]
    logger.log(number, name, exc_info=exc_info, extra={**_bound.get(), **fields})


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add fields to every event inside, in this task and those it starts."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record carries beyond what every record has."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the names Cloud Logging looks for (`severity`, `message`)."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        entry = {"severity": record.levelname, "message": record.getMessage(), "logger": record.name}
        entry.update(fields_of(record))
        if record.exc_info:
            entry["stack_trace"] = self.formatException(record.exc_info)
        return self._mask(json.dumps(entry, default=str))


class LineFormatter(logging.Formatter):
    """`HH:MM:SS event field=value …` for people."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, with a traceback below it if there is one."""
        mark = "" if record.levelno < logging.WARNING else f" {record.levelname.lower()}"
        pairs = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        line = f"{self.formatTime(record, '%H:%M:%S')}{mark} {record.getMessage()}{pairs}"
        text = f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
        return self._mask(text)


def set_up(env: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Send all logs to stderr, as JSON on Cloud Run (K_SERVICE, CLOUD_RUN_JOB) or when LOG_FORMAT=json.

    Whoever logs, no secret of `env` gets through: not even if it stands in another's exception or a library's
    debugging output.
    """
    hosted = bool(env.get("K_SERVICE") or env.get("CLOUD_RUN_JOB"))
    as_json = env.get("LOG_FORMAT", "json" if hosted else "line").lower() == "json"
    handler = logging.StreamHandler(stream or sys.stderr)
    mask = Mask(env)
    handler.setFormatter(JsonFormatter(mask) if as_json else LineFormatter(mask))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    wished = env.get("LOG_LEVEL", "INFO").upper()
    logger.setLevel(logging.getLevelNamesMapping().get(wished, logging.INFO))
