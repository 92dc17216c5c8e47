"""Whether a run stops, why, and what to fix."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal, get_args

from worker.common.deadline import Within, timeout

StopReason = Literal[
    "queue_empty",
    "budget",
    "max_jobs",
    "rate_limited",
    "daily_cap",
    "paused",
    "too_many_runs",
    "busy",
    "misconfigured",
    "shutdown",
    "queue_lost",
]

_SEVERITY: Mapping[StopReason, int] = {"queue_lost": 1, "shutdown": 2, "misconfigured": 3}
"""A more severe reason replaces a less severe one; reasons not listed have severity 0."""


def known_reason(reason: str | None, otherwise: StopReason) -> StopReason:
    """The stop reason for the `reason` of an empty claim or of a refusing rate gate."""
    return next((known for known in get_args(StopReason) if known == reason), otherwise)


class Stop:
    """The stop state of one run, set by an image, a claim or SIGTERM.

    `reason` is None while the run continues; `problem` says what has to be fixed.
    """

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self.problem: str | None = None
        self._no_starts = asyncio.Event()

    @property
    def paused(self) -> bool:
        """Whether no further request may be sent."""
        return self._no_starts.is_set()

    def end(self, reason: StopReason, problem: str | None = None) -> None:
        """End the run after the claimed jobs; the most severe of several reasons is kept."""
        more_severe = self.reason is None or _SEVERITY.get(reason, 0) > _SEVERITY.get(self.reason, 0)
        if more_severe or (reason == self.reason and self.problem is None):
            self.reason, self.problem = reason, problem or self.problem

    def abort(self, reason: StopReason, problem: str | None = None) -> None:
        """End the run and start no further request, including those of claimed jobs."""
        self.end(reason, problem)
        self.pause()

    def pause(self) -> None:
        """Start no request until `resume` is called; wakes every `sleep`."""
        self._no_starts.set()

    def resume(self) -> None:
        """Allow requests again after `pause`, unless the run has ended."""
        if self.reason is None:
            self._no_starts.clear()

    async def sleep(self, within: Within) -> None:
        """Wait for a time, or until no further request may be sent."""
        try:
            async with timeout(within):
                await self._no_starts.wait()
        except TimeoutError:
            return
