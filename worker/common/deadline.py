"""A deadline that cancels pending calls and can be moved while they are pending."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager


class Deadline:
    """A time on the monotonic clock, in seconds; never later than its `parent`, which may move."""

    def __init__(self, at: float, monotonic: Callable[[], float], parent: Deadline | None = None) -> None:
        self._at = at
        self._monotonic = monotonic
        self._parent = parent
        self._calls: set[asyncio.Timeout] = set()

    @property
    def at(self) -> float:
        """The time of the deadline."""
        return self._at if self._parent is None else min(self._at, self._parent.at)

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(self.at - self._monotonic(), 0.0)

    @property
    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return self._monotonic() >= self.at

    def within(self, seconds: float) -> Deadline:
        """A deadline `seconds` from now, but not later than this one."""
        return Deadline(self._monotonic() + seconds, self._monotonic, self)

    def move(self, at: float) -> None:
        """Move the deadline; pending calls with a later timeout are cancelled at the new time."""
        self._at = at
        if not self._calls:
            return
        when = asyncio.get_running_loop().time() + self.remaining
        for call in self._calls:
            if when < (call.when() or math.inf):  # false for a call that has already timed out
                call.reschedule(when)

    @asynccontextmanager
    async def timeout(self) -> AsyncIterator[asyncio.Timeout]:
        """Cancel the code in this context at the deadline, with TimeoutError."""
        async with asyncio.timeout(self.remaining) as call:
            observed = [self, *self._ancestors()]
            for deadline in observed:
                deadline._calls.add(call)
            try:
                yield call
            finally:
                for deadline in observed:
                    deadline._calls.discard(call)

    def _ancestors(self) -> list[Deadline]:
        return [] if self._parent is None else [self._parent, *self._parent._ancestors()]


Within = float | Deadline
"""The time limit of a call: seconds from now, or a deadline."""


def timeout(within: Within) -> AbstractAsyncContextManager[asyncio.Timeout]:
    """Cancel the code in this context when the time is up, with TimeoutError."""
    return within.timeout() if isinstance(within, Deadline) else asyncio.timeout(within)
