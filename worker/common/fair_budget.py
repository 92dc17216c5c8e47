"""A budget of bytes, fetches or images at a time, divided fairly between users."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Waiter:
    owner: str
    size: Callable[[], int]
    granted: Callable[[], None]
    future: asyncio.Future[None] = field(default_factory=asyncio.Future)


class FairBudget:
    """At most `limit` units (bytes, fetches or images) are held at a time, and at most half by one owner.

    `alone` is how much one owner may hold while no other owner holds or waits; half of `limit` by default,
    which leaves the other half for the next owner. Requests are granted in the order of start-time fair
    queueing, as in the job queue, so that one owner's large requests do not delay another's small ones;
    requests of the same owner are granted in order. A request that exceeds its owner's half delays only that
    owner. A request larger than `limit` is granted when nothing else is held, one larger than half when its
    owner holds nothing.

    A turn costs an owner the units that are granted, times `price`: at price 3, a third as many units as at
    1. With `monotonic`, which returns seconds, it costs the units that are held times how long instead: an
    owner whose photos take minutes is behind one whose photos take seconds, and a request that is cancelled
    at the moment of its grant costs nothing.
    """

    def __init__(
        self,
        limit: int,
        *,
        alone: int | None = None,
        price: Callable[[str], float] = lambda _owner: 1.0,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._limit = limit
        self._share = limit // 2
        self._alone = self._share if alone is None else alone
        self._price = price
        self._monotonic = monotonic
        self._charged_at = monotonic() if monotonic else 0.0
        self._closed = False
        self._held: Counter[str] = Counter()
        self._total = 0
        self._waiting: list[_Waiter] = []
        self._watchers: list[tuple[str, asyncio.Event]] = []
        self._now = self._granted = 0.0
        self._turns: dict[str, float] = {}

    @property
    def free(self) -> int:
        """Units not held; negative while a single request larger than `limit` is held."""
        return self._limit - self._total

    @property
    def waiting(self) -> int:
        """How many requests wait to be granted."""
        return len(self._waiting)

    @property
    def owners_waiting(self) -> set[str]:
        """Whose requests wait to be granted."""
        return {waiter.owner for waiter in self._waiting}

    async def until_others_wait(self, owner: str) -> None:
        """Wait until another owner has to wait for units although they have had less, and not their half.

        Of several that wait here, the one whose owner has had most is told, then the next if that was not
        enough.
        """
        watcher = (owner, asyncio.Event())
        self._watchers.append(watcher)
        self._notify()
        try:
            await watcher[1].wait()
        finally:
            self._watchers.remove(watcher)

    @asynccontextmanager
    async def hold(
        self, owner: str, size: int, when_granted: Callable[[], None] = lambda: None
    ) -> AsyncIterator[None]:
        """Wait for `size` units, and hold them while the context is open."""
        held = False

        def granted() -> None:
            nonlocal held
            held = True
            when_granted()
            self.add(owner, size)

        try:
            await self.wait(owner, lambda: size, granted)
            yield
        finally:
            if held:
                self.add(owner, -size)

    @asynccontextmanager
    async def hold_after(self, owner: str, size: int, first: Callable[[], Awaitable[T]]) -> AsyncIterator[T]:
        """Hold `size` units, wait for `first`, and yield its result.

        Nobody else is granted anything between the grant and the result. The owner's price is that after it;
        if `first` raises, the turn costs nothing. For budgets without `monotonic`.
        """
        closed = False

        def close() -> None:
            nonlocal closed
            closed = self._closed = True

        def reopen() -> None:
            nonlocal closed
            if closed:
                closed = self._closed = False
                self._serve()

        try:
            async with self.hold(owner, size, close):
                price = self._price(owner)
                try:
                    result = await first()
                except BaseException:
                    self._turns[owner] -= size * price
                    raise
                self._turns[owner] += size * (self._price(owner) - price)
                reopen()
                yield result
        finally:
            reopen()

    async def wait(self, owner: str, size: Callable[[], int], granted: Callable[[], None]) -> None:
        """Wait until `size()` units are free, then call `granted`, which must `add` them.

        Both are called without an await in between, so `granted` sees the same state as `size`.
        A cancelled caller may have been granted its units.
        """
        waiter = _Waiter(owner, size, granted)
        self._enter(owner)
        self._waiting.append(waiter)
        self._serve()
        try:
            await waiter.future
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._serve()

    def add(self, owner: str, size: int) -> None:
        """Add `size` units to what the owner holds; a negative size releases them."""
        self._charge_time()
        self._held[owner] += size
        self._total += size
        if not self._held[owner]:
            del self._held[owner]
        if size < 0:
            self._serve()

    def _enter(self, owner: str) -> None:
        """Give an owner who begins to wait a turn that is not in the past."""
        self._charge_time()
        active = self._owners
        self._turns = {name: turn for name, turn in self._turns.items() if turn > self._now or name in active}
        if owner not in self.owners_waiting:
            self._turns[owner] = max(self._turns.get(owner, self._now), self._now)

    @property
    def _owners(self) -> set[str]:
        """Who holds units or waits for some."""
        return {*self._held, *self.owners_waiting}

    @property
    def _owners_below_half(self) -> set[str]:
        """Who waits only because others hold units."""
        return {
            waiter.owner
            for waiter in self._waiting
            if not waiter.future.cancelled()
            and self._fits(self._held[waiter.owner], waiter.size(), self._share)
        }

    def _even_share(self, units: float) -> float:
        """How far these units would advance the turn of each owner who holds or waits, if all had as much."""
        return units / sum(1 / self._price(owner) for owner in self._owners)

    def _charge_time(self) -> None:
        """With `monotonic`, charge those who hold units for the time since the last call.

        The budget's time, at which new owners begin, advances evenly while somebody waits, and else with
        those who hold most: what nobody else wanted is not held against them.
        """
        if self._monotonic is None:
            return
        now = self._monotonic()
        seconds, self._charged_at = now - self._charged_at, now
        for owner, units in self._held.items():
            self._turns[owner] += units * seconds * self._price(owner)
        if self._owners_below_half:
            self._now += self._even_share(self._total * seconds)
        else:
            self._now = max([self._now, *(self._turns[owner] for owner in self._held)])

    def _serve(self) -> None:
        self._charge_time()
        while not self._closed and (waiter := self._first_that_fits()):
            self._take_turn(waiter.owner, waiter.size())
            self._waiting.remove(waiter)
            waiter.granted()
            waiter.future.set_result(None)
        self._notify()

    def _notify(self) -> None:
        """Tell the watcher whose owner has had most and holds some, if somebody waits who has had less."""
        watchers = [watcher for watcher in self._watchers if watcher[0] in self._held]
        if not watchers:
            return
        owner, others_wait = max(watchers, key=lambda watcher: self._turns[watcher[0]])
        others = self._owners_below_half - {owner}
        if others and min(self._turns[other] for other in others) < self._turns[owner]:
            others_wait.set()

    def _first_that_fits(self) -> _Waiter | None:
        """The first request of the owner whose turn it is, unless it has to wait for free units."""
        first: dict[str, _Waiter] = {}
        for waiter in self._waiting:
            if not waiter.future.cancelled():
                first.setdefault(waiter.owner, waiter)
        share = self._alone if len({*self._held, *first}) == 1 else self._share
        for owner in sorted(first, key=lambda each: (self._turns[each], self._price(each))):
            size = first[owner].size()
            if self._fits(self._held[owner], size, share):
                return first[owner] if self._fits(self._total, size, self._limit) else None
            # While at its own limit, an owner saves up no turns.
            self._turns[owner] = max(self._turns[owner], self._granted)
        return None

    def _take_turn(self, owner: str, size: int) -> None:
        """Advance the owner's virtual time, in units granted per owner at price 1, and that of the budget."""
        if self._monotonic:
            return
        turn = self._turns[owner]
        self._turns[owner] = turn + size * self._price(owner)
        self._granted = max(self._granted, turn)
        # The budget's time advances with every grant; otherwise new owners would always come first.
        shared = self._even_share(size) if len(self._owners) > 1 else 0
        self._now = max(self._now, turn) + shared

    @staticmethod
    def _fits(held: int, size: int, limit: int) -> bool:
        return not held or not size or held + size <= limit
