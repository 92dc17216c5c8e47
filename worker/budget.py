"""The time a run has: five deadlines on the monotonic clock, which a shutdown can draw nearer.

start     nothing new after this that could not finish, judged by the observed latency
generate  calls to Gemini still under way are cut
save      what Gemini gave by then is stored and recorded
settle    jobs that have ended by then are settled
answer    the response leaves; what is still stuck is abandoned
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from worker.settings import MAX_RUN_SECONDS

Deadline = Literal["generate", "save", "answer", "finish"]

UNKNOWN_LATENCY_SECONDS = 15.0
"""Assumed until a model has made its first images: 1.5 times what gemini-2.5-flash-image usually takes."""


class Budget:
    """The deadlines of one run, in seconds of `monotonic`.

    Of the margin, 60 % lie between `generate` and `save` for storing and recording, 7 % between `save` and
    `settle` for jobs whose last record was cut to end, 8 % between `settle` and `answer` for the last settle
    and the run's row, 25 % after `answer` for the response itself.
    """

    def __init__(self, seconds: float, margin_seconds: float, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._calls: dict[asyncio.Timeout, Deadline] = {}
        self.latency_seconds: float | None = None
        self.began = monotonic()
        self._set(min(seconds, MAX_RUN_SECONDS), margin_seconds)

    def _set(self, seconds: float, margin_seconds: float) -> None:
        margin = min(margin_seconds, seconds / 3)
        self.end = self._monotonic() + seconds
        self.answer = self.end - margin * 0.25
        self.settle = self.end - margin * 0.33
        self.save = self.end - margin * 0.4
        self.generate = self.end - margin

    @property
    def start(self) -> float:
        """The last moment at which a call that takes the observed latency still finishes in time."""
        known = self.latency_seconds
        if known is None:
            known = min(UNKNOWN_LATENCY_SECONDS, (self.generate - self.began) / 2)
        return self.generate - known

    def remaining(self, deadline: float) -> float:
        """Seconds until a deadline, never negative."""
        return max(deadline - self._monotonic(), 0.0)

    @property
    def finish(self) -> float:
        """When the run's last call is cut: at `answer`, or halfway from now to `end` if that is later."""
        return max(self.answer, (self._monotonic() + self.end) / 2)

    def passed(self, deadline: float) -> bool:
        """Whether a deadline has passed."""
        return self._monotonic() >= deadline

    def shorten(self, seconds: float) -> None:
        """End within `seconds` at the latest, as SIGTERM asks; every call under way is cut accordingly."""
        if self.remaining(self.end) <= seconds:
            return
        self._set(seconds, seconds / 2)
        now = asyncio.get_running_loop().time()
        for call, deadline in self._calls.items():
            when = now + self.remaining(getattr(self, deadline))
            if when < (call.when() or math.inf):  # never so for one that is being cut already
                call.reschedule(when)

    @asynccontextmanager
    async def until(
        self, deadline: Deadline, at_most_seconds: float = math.inf
    ) -> AsyncIterator[asyncio.Timeout]:
        """Bound a call by a deadline, wherever a shutdown moves it meanwhile; TimeoutError when it is cut."""
        async with asyncio.timeout(min(self.remaining(getattr(self, deadline)), at_most_seconds)) as call:
            self._calls[call] = deadline
            try:
                yield call
            finally:
                del self._calls[call]
