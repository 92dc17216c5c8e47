"""Paces the starts of calls to Gemini: a minimum delay between them, and a stop after a 429.

Every call, retries included, takes a start first; the pacer says when, or that it would be too late.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Pacer:
    """Hands out starts at least `min_interval_seconds` apart, in the order they are asked for."""

    def __init__(self, min_interval_seconds: float, monotonic: Callable[[], float]) -> None:
        self._interval = min_interval_seconds
        self._monotonic = monotonic
        self._next = monotonic()
        self._closing = asyncio.Event()
        self.blocked_until = -math.inf

    @property
    def closed(self) -> bool:
        """Whether nothing may start any more."""
        return self._closing.is_set()

    def close(self) -> None:
        """Start nothing more; whoever waits for a start is told at once."""
        self._closing.set()

    def reopen(self) -> None:
        """Hand out starts again."""
        self._closing.clear()

    def block(self, seconds: float) -> None:
        """Start nothing for `seconds`: Gemini said that the quota is used up."""
        self.blocked_until = max(self.blocked_until, self._monotonic() + seconds)

    async def take(self, latest: Callable[[], float]) -> bool:
        """Wait for a start; False at once when there is none before `latest()`, which is asked anew."""
        at = max(self._next, self._monotonic())
        self._next = at + self._interval
        while not self.closed:
            at = max(at, self.blocked_until)
            if at > latest():
                return False
            wait_seconds = at - self._monotonic()
            if wait_seconds <= 0:
                return True
            await self._sleep(wait_seconds)
        return False

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return
