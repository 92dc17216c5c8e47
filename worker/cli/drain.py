"""`drain`: when the loop pauses and when it ends, and the summary of all its runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from worker.cli.loop import LEAST_PAUSE_SECONDS, failure_pause_seconds, goes_on
from worker.common.retry_delay import Uniform
from worker.run.summary import most_common

PATIENCE_SECONDS = 120.0
"""Longer than the block of a per-minute quota, shorter than that of a daily one."""

FAILURES = 5
"""Consecutive runs without Supabase before `drain` ends, about half a minute. Its caller may restart it."""

COUNTS = ("claimed", "completed", "failed", "retried", "rateLimited", "leaseLost")


class Drain:
    """Ends the loop when the queue is empty, or no job is due within `patience_seconds`."""

    def __init__(self, patience_seconds: float, uniform: Uniform) -> None:
        self._patience_seconds = patience_seconds
        self._uniform = uniform
        self._runs = 0
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._last: Mapping[str, Any] = {}

    def pause(self, summary: Mapping[str, Any], failures: int) -> float | None:
        """Seconds until the next run; None ends the loop."""
        self._add(summary)
        if failures:
            if summary["stopReason"] == "misconfigured" or failures >= FAILURES:
                return None
            return failure_pause_seconds("queue_lost", failures, self._patience_seconds, self._uniform)
        if goes_on(summary):
            return 0.0
        due = summary["nextAttemptInSeconds"]
        if due is None or due > self._patience_seconds:
            return None
        return max(float(due), LEAST_PAUSE_SECONDS)

    @property
    def failed(self) -> bool:
        """Whether the last run could not work."""
        return self._last.get("stopReason") in ("misconfigured", "queue_lost")

    def as_json(self) -> dict[str, Any]:
        """The totals of all runs, why the last one ended, and when the next job is due."""
        answer = {
            "runs": self._runs,
            "stopReason": self._last.get("stopReason", "shutdown"),
            **{name: self._counts[name] for name in COUNTS},
            "failuresByCode": most_common(self._failures),
            "imagesMade": self._counts["made"],
            "nextAttemptInSeconds": self._last.get("nextAttemptInSeconds"),
        }
        problem = self._last.get("problem")
        return {**answer, "problem": problem} if problem else answer

    def _add(self, summary: Mapping[str, Any]) -> None:
        self._last = summary
        self._runs += 1
        self._counts.update({name: summary.get(name, 0) for name in COUNTS})
        self._failures.update(summary.get("failuresByCode", {}))
        self._counts["made"] += summary.get("images", {}).get("made", 0)
