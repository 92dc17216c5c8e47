"""A gate by hand, a clock that can be moved, and images that wait: what the tests of the slots share."""

import asyncio
from collections import deque
from collections.abc import Iterable

from worker.errors import QuotaFacts
from worker.slots import LimitAnswer, SlotAnswer, Slots

FACTS = QuotaFacts("minute", 30.0, 10)
NEVER = 1e9


class HandGate:
    """A gate that answers what it is told to, and remembers what it was asked."""

    def __init__(self, *answers: SlotAnswer | Exception) -> None:
        self.answers = deque(answers)
        self.asked: list[int] = []
        self.within: list[float] = []
        self.reported: list[QuotaFacts] = []
        self.epochs: list[int | None] = []
        self.limit = LimitAnswer(1, 0)
        self.open = asyncio.Event()
        self.open.set()
        self.entered = asyncio.Event()

    async def take(self, slots: int, within_seconds: float) -> SlotAnswer:
        self.asked.append(slots)
        self.within.append(within_seconds)
        self.entered.set()
        await self.open.wait()
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def report(self, facts: QuotaFacts, epoch: int | None) -> LimitAnswer:
        self.reported.append(facts)
        self.epochs.append(epoch)
        return self.limit


class Ticker:
    """A monotonic clock that a test moves, and the event loop's as far as that goes on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


def starts(*offsets: float, epoch: int = 1, grace: float = 1, horizon: float = 10) -> SlotAnswer:
    """An answer with starts."""
    return SlotAnswer(offsets, grace, horizon, epoch, None, 1)


def none(reason: str, next_seconds: float | None, horizon: float = 10) -> SlotAnswer:
    """An answer without starts."""
    return SlotAnswer((), 1, horizon, 1, reason, next_seconds)


def never() -> float:
    """No latest start."""
    return NEVER


async def settled() -> None:
    """Everything that can go on by itself has gone as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def waiting(slots: Slots, count: int) -> list[asyncio.Task[int | None]]:
    """So many images that wait for a start."""
    return [asyncio.create_task(slots.take(never)) for _ in range(count)]


def done(tasks: Iterable[asyncio.Task[int | None]]) -> list[int | str | None]:
    """The epoch of each one's slot, None for one that was refused, "waits" while it waits."""
    return [task.result() if task.done() else "waits" for task in tasks]
