"""Whether a run goes on, and if it does not, why and what to fix."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

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

_GRAVITY: Mapping[StopReason, int] = {"queue_lost": 1, "shutdown": 2, "misconfigured": 3}
"""Which reason goes before others; those not named here are the mildest."""


_CLAIM_REASONS: Mapping[str | None, StopReason] = {
    "busy": "busy",
    "rate_limited": "rate_limited",
    "daily_cap": "daily_cap",
    "paused": "paused",
    "too_many_runs": "too_many_runs",
}


def claim_reason(told: str | None, otherwise: StopReason) -> StopReason:
    """Why a run ends whose claim or rate gate gave nothing and said why."""
    return _CLAIM_REASONS.get(told, otherwise)


class Stop:
    """The end of one run. Whoever learns that the run cannot go on says so here: an image, a claim, SIGTERM.

    `reason` is None while the run goes on; `problem` says what has to be fixed.
    """

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self.problem: str | None = None
        self._no_starts = asyncio.Event()

    @property
    def paused(self) -> bool:
        """Whether no request may be sent any more."""
        return self._no_starts.is_set()

    def end(self, reason: StopReason, problem: str | None = None) -> None:
        """End the run once what has been claimed is done; of several reasons the gravest stands."""
        graver = self.reason is None or _GRAVITY.get(reason, 0) > _GRAVITY.get(self.reason, 0)
        if graver or (reason == self.reason and self.problem is None):
            self.reason, self.problem = reason, problem or self.problem

    def abort(self, reason: StopReason, problem: str | None = None) -> None:
        """End the run, and start nothing more of what has been claimed either."""
        self.end(reason, problem)
        self.pause()

    def pause(self) -> None:
        """Start nothing until `resume`, if that ever comes; whoever waits for a start learns of it."""
        self._no_starts.set()

    def resume(self) -> None:
        """Start again after `pause`, unless the run has ended meanwhile."""
        if self.reason is None:
            self._no_starts.clear()

    async def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the moment from which nothing may start."""
        try:
            async with asyncio.timeout(seconds):
                await self._no_starts.wait()
        except TimeoutError:
            return
