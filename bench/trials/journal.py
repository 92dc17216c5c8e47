"""Records the log events of this process's workers, with their times."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import Any

from worker.log import logger
from worker.log.terminal_lines import fields_of

USEFUL = frozenset({"image_made", "image_refused", "image_discarded", "job_completed", "job_failed"})
"""Events with a lasting result, which no later run has to repeat."""


class Journal(logging.Handler):
    """Keeps every event without printing it. Times are in seconds of the machine's monotonic clock."""

    def __init__(self) -> None:
        super().__init__()
        self.clear()
        logger.handlers, logger.propagate = [self], False
        logger.setLevel(logging.INFO)
        logging.getLogger().setLevel(logging.CRITICAL)  # vendors would log the injected faults

    def clear(self) -> None:
        """Forget everything."""
        self.last_useful: dict[str, float] = {}
        self.claims: defaultdict[int, list[float]] = defaultdict(list)
        self.counts: defaultdict[str, int] = defaultdict(int)

    def emit(self, record: logging.LogRecord) -> None:
        """Note an event."""
        now, name = time.monotonic(), record.getMessage()
        fields: dict[str, Any] = fields_of(record)
        self.counts[name] += 1
        if name in USEFUL:
            self.last_useful[str(fields.get("run"))] = now
        if name == "job_claimed":
            self.claims[int(fields["job"])].append(now)
        if name == "image_erred" and fields.get("paid"):
            self.counts["image_arrived_and_erred"] += 1
