"""Start slots from the rate gate: every call to Gemini, retries included, takes one first.

Slots are taken late and near, for as many images as have their photos in hand; whichever image waits longest
takes the next. The gate in the database decides; this only keeps its word to the second.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from worker.errors import QuotaFacts

LEAST_WAIT_SECONDS = 0.05
"""Between two questions to a gate that had no slot: another run may have given up its place."""


@dataclass(frozen=True, slots=True)
class SlotAnswer:
    """What the gate gave: starts in seconds from now, or why none and when to ask again (None: unknown).

    A start is void `grace_seconds` after its time; none is given more than `horizon_seconds` ahead.
    """

    slots: tuple[float, ...]
    grace_seconds: float
    horizon_seconds: float
    epoch: int
    reason: str | None
    next_seconds: float | None


@dataclass(frozen=True, slots=True)
class LimitAnswer:
    """What the gate made of a 429."""

    epoch: int
    blocked_seconds: float


class Gate(Protocol):
    """The database's gate of one model; raises QueueUnavailable when it cannot be asked."""

    async def take(self, slots: int, within_seconds: float) -> SlotAnswer: ...

    async def report(self, facts: QuotaFacts, epoch: int | None) -> LimitAnswer: ...


class Slots:
    """A run's slots. `take` waits for a start; `refusal` says why there was none."""

    def __init__(self, gate: Gate, monotonic: Callable[[], float]) -> None:
        self._gate = gate
        self._monotonic = monotonic
        self._at: deque[float] = deque()
        self._grace = self._horizon = 0.0
        self._epoch: int | None = None
        self._waiting = 0
        self._turn = asyncio.Lock()
        self._closing = asyncio.Event()
        self.refusal: str | None = None
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

    def move(self, gate: Gate) -> None:
        """Go to another model's gate; slots of the old one are void."""
        self._gate = gate
        self._at.clear()
        self._epoch = None
        self.refusal = None
        self.blocked_until = -math.inf

    def block(self, seconds: float) -> None:
        """Start nothing for `seconds`, as far as this run goes; slots before then are void."""
        if seconds <= 0:
            return
        self.blocked_until = max(self.blocked_until, self._monotonic() + seconds)
        while self._at and self._at[0] < self.blocked_until:
            self._at.popleft()

    async def take(self, latest: Callable[[], float]) -> int | None:
        """Wait for a start, first come first served; None at once when there is none before `latest()`.

        Returns the epoch of its slot, which a 429 of the call is told under. Raises what the gate raises.
        """
        self._waiting += 1
        try:
            async with self._turn:
                return await self._next(latest)
        finally:
            self._waiting -= 1

    async def limited(self, facts: QuotaFacts, epoch: int | None) -> None:
        """Tell the gate of a 429 under a slot of `epoch`; slots of an epoch that has passed are void.

        Of several calls under way at once the gate learns from the first alone: the others' epoch has passed.
        """
        gate = self._gate
        answer = await gate.report(facts, epoch)
        if gate is not self._gate:
            return
        self.block(answer.blocked_seconds)
        if answer.epoch > (self._epoch or 0):
            self._at.clear()
            self._epoch = answer.epoch

    async def _next(self, latest: Callable[[], float]) -> int | None:
        while not self.closed:
            now = self._monotonic()
            while self._at and self._at[0] + self._grace < now:
                self._at.popleft()
            due = self._at[0] if self._at else max(self.blocked_until - self._horizon, now)
            if due > latest():
                return None
            if due > now:
                await self._sleep(due - now)
            elif self._at:
                self._at.popleft()
                return self._epoch
            elif not await self._refill(latest):
                return None
        return None

    async def _refill(self, latest: Callable[[], float]) -> bool:
        """Ask for as many slots as images wait. False if there is none before `latest()`."""
        gate = self._gate
        answer = await gate.take(self._waiting, latest() - self._monotonic())
        if gate is not self._gate or answer.epoch < (self._epoch or 0):
            return True  # overtaken by a change of model or a 429: void before it came
        received = self._monotonic()
        self._grace, self._horizon = answer.grace_seconds, answer.horizon_seconds
        self._epoch, self.refusal = answer.epoch, answer.reason
        self._at.extend(received + offset for offset in answer.slots)
        if self._at:
            return True
        if answer.next_seconds is None:
            return False
        self.block(answer.next_seconds)
        if self.blocked_until > latest():
            return False
        await self._sleep(LEAST_WAIT_SECONDS)
        return True

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return
