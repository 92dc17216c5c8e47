"""Log records for people: UTC time, event, `field=value …`; colored on a terminal (not with NO_COLOR)."""

from __future__ import annotations

import logging
import time
from typing import Any, TextIO

from colorlog import ColoredFormatter

from worker.log.mask import Mask

FORMAT = "%(thin)s%(asctime)s%(reset)s %(log_color)s%(mark)s%(message)s%(reset)s%(fields)s"
COLOURS = {"DEBUG": "thin", "INFO": "", "WARNING": "yellow", "ERROR": "bold_red", "CRITICAL": "bold_red"}
HIDDEN = frozenset({"trace", "span", "sampled"})
"""Fields that are useful only in Cloud Logging."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "mark", "fields"}


class TerminalLines(ColoredFormatter):
    """A record as one line, with its traceback below it if it has one."""

    def __init__(self, mask: Mask, stream: TextIO) -> None:
        super().__init__(FORMAT, "%Y-%m-%dT%H:%M:%SZ", log_colors=COLOURS, stream=stream, reset=False)
        self.converter = time.gmtime
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        record.mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()} "
        record.fields = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        return self._mask(super().format(record))


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The event's own fields: those that not every record has."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD | HIDDEN}
