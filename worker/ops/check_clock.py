"""The finding of `check` about retry times that the database's clock set while it was ahead. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.ops.finding import Finding

FIX = (
    "the next run corrects times that a wrong clock set; if some remain, somebody set them by hand. To make "
    'these jobs due: update photo_generation_queue set "retryAt" = now() '
    "where \"retryAt\" > now() + interval '49 hours'"
)


def clock_finding(stats: Mapping[str, Any] | None) -> Finding:
    """The finding for an answer of `generation_queue_stats`."""
    if stats is None:
        return Finding("clock", "skipped", "not checked, since the database check failed")
    words = [each["words"] for each in stats["warnings"] if each["about"] == "clock"]
    if words:
        return Finding("clock", "warning", "; ".join(words), FIX)
    return Finding("clock", "ok", "no job or block waits longer than possible")
