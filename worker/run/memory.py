"""Memory shared by all runs of a worker: who may hold how many bytes, and who has to wait."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

PHOTO_BYTES = 192 * 1024 * 1024
"""Of source photos: those that jobs hold, and those kept for the next job."""

CALL_BYTES = 104 * 1024 * 1024
"""Of photos in calls to Gemini, which the calls encode as they send them."""


@dataclass(slots=True, eq=False)
class _Waiter:
    owner: str
    turn: float
    size: Callable[[], int]
    granted: Callable[[], None]
    future: asyncio.Future[None] = field(default_factory=asyncio.Future)


class ByteBudget:
    """At most `limit` bytes are held at a time, and at most half of them by one owner.

    `alone` is how much one owner may hold while no other holds or wants any; the half by default, which
    leaves the other half to whoever comes. Owners take turns by bytes (start-time fair queueing, as in the
    queue), so that large sizes of one owner come after the many small ones that another may have meanwhile;
    an owner's own come as they were asked for. Who has to wait for an owner's own half holds up that owner
    alone. A size above the limit is granted once nothing else is held, one above the half once its owner
    holds nothing.
    """

    def __init__(self, limit: int, *, alone: int | None = None) -> None:
        self._limit = limit
        self._share = limit // 2
        self._alone = self._share if alone is None else alone
        self._held: Counter[str] = Counter()
        self._total = 0
        self._waiting: list[_Waiter] = []
        self._now = 0.0
        self._next_turn: dict[str, float] = {}

    @property
    def free(self) -> int:
        """Bytes that nobody holds; below zero while one holds more than there is."""
        return self._limit - self._total

    @asynccontextmanager
    async def hold(self, owner: str, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes while the context is open, once there is room for them."""
        held = False

        def granted() -> None:
            nonlocal held
            held = True
            self.add(owner, size)

        try:
            await self.wait(owner, lambda: size, granted)
            yield
        finally:
            if held:
                self.add(owner, -size)

    async def wait(self, owner: str, size: Callable[[], int], granted: Callable[[], None]) -> None:
        """Wait until there is room for `size()` bytes, then call `granted`, which must add them.

        Both are called without a pause between them, so what `size` has seen still holds in `granted`.
        A cancelled caller may have been granted its bytes.
        """
        waiter = _Waiter(owner, self._take_turn(owner, size()), size, granted)
        insort(self._waiting, waiter, key=lambda each: each.turn)
        self._serve()
        try:
            await waiter.future
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._serve()

    def add(self, owner: str, size: int) -> None:
        """Count `size` more bytes as held by the owner, or fewer if it is negative."""
        self._held[owner] += size
        self._total += size
        if not self._held[owner]:
            del self._held[owner]
        if size < 0:
            self._serve()

    def _take_turn(self, owner: str, size: int) -> float:
        """When what is asked for now is due, counted in bytes that each owner has had."""
        turn = max(self._next_turn.get(owner, 0), self._now)
        self._next_turn = {name: due for name, due in self._next_turn.items() if due > self._now}
        self._next_turn[owner] = turn + size
        return turn

    def _serve(self) -> None:
        waiting = [waiter for waiter in self._waiting if not waiter.future.cancelled()]
        owners = {*self._held, *(waiter.owner for waiter in waiting)}
        share = self._alone if len(owners) == 1 else self._share
        behind: set[str] = set()
        for waiter in waiting:
            size = waiter.size()
            if waiter.owner in behind or not self._fits(self._held[waiter.owner], size, share):
                behind.add(waiter.owner)
            elif self._fits(self._total, size, self._limit):
                self._waiting.remove(waiter)
                # Time goes on with every grant, or owners who are new would always come before the others.
                self._now = max(self._now, waiter.turn) + (size / len(owners) if len(owners) > 1 else 0)
                waiter.granted()
                waiter.future.set_result(None)
            else:
                return

    @staticmethod
    def _fits(held: int, size: int, limit: int) -> bool:
        return not held or not size or held + size <= limit
