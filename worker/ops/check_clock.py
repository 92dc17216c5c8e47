"""Whether a database clock that was ahead has left waits behind, as a finding of `check`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.ops.finding import Finding

MEND = (
    "the next run moves what a wrong clock has set; what stays a person has set, and makes due: "
    'update photo_generation_queue set "retryAt" = now() where "retryAt" > now() + interval \'49 hours\''
)


def clock_finding(stats: Mapping[str, Any] | None) -> Finding:
    """Of the answer of `generation_queue_stats`."""
    if stats is None:
        return Finding("clock", "skipped", "not looked at before the database answers")
    words = [each["words"] for each in stats["warnings"] if each["about"] == "clock"]
    if words:
        return Finding("clock", "warning", "; ".join(words), MEND)
    return Finding("clock", "ok", "nothing waits longer than it can")
