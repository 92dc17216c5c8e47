"""A gate by hand, a clock that can be moved, and images that wait: what tests of the rate limiter share."""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from worker.common.deadline import Deadline, Within
from worker.errors import QuotaFacts
from worker.run.deadlines import Deadlines
from worker.run.outcome import NotStarted
from worker.run.rate_limiter import RateLimiter
from worker.run.stop import Stop
from worker.supabase.retry import call_with_retry

RUN = UUID("00000000-0000-0000-0000-000000000001")
FACTS = QuotaFacts("minute", 30.0, 10)


class HandGate:
    """A database whose gate gives prepared answers and records its calls."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = deque(answers)
        self.asked: list[int] = []
        self.models: list[str] = []
        self.within: list[float] = []
        self.users: list[list[str]] = []
        self.reported: list[Mapping[str, Any]] = []
        self.limit: dict[str, Any] | Exception | None = limit(1, 0)
        """What a 429 is answered, None for no answer."""
        self.open = asyncio.Event()
        self.open.set()
        self.entered = asyncio.Event()

    async def rpc(
        self, function: str, params: Mapping[str, Any], within: Within = 30.0, tries: int = 4
    ) -> dict[str, Any]:
        assert tries == 1, "an answer that is lost must not be asked for again"
        assert isinstance(within, Deadline), "a question without a deadline may outlive its run"
        answer = self._take if function == "take_start_slots" else self._report
        return await call_with_retry(lambda: answer(params), function, within, tries)

    async def _take(self, params: Mapping[str, Any]) -> dict[str, Any]:
        assert params["p_run_id"] == str(RUN)
        self.asked.append(params["p_slots"])
        self.models.append(params["p_model"])
        self.within.append(params["p_within_seconds"])
        self.users.append(params["p_users"])
        self.entered.set()
        await self.open.wait()
        return given(self.answers.popleft())

    async def _report(self, params: Mapping[str, Any]) -> dict[str, Any]:
        self.reported.append(params)
        self.entered.set()
        if self.limit is None:
            await asyncio.Event().wait()
        return given(self.limit or {})


def given(answer: dict[str, Any] | Exception) -> dict[str, Any]:
    """The answer, or the failure that it is."""
    if isinstance(answer, Exception):
        raise answer
    return answer


class Ticker:
    """A monotonic clock that a test moves, plus the event loop's progress."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead

    def after(self, seconds: float) -> Deadline:
        """A deadline so many seconds from now."""
        return Deadline(self() + seconds, self)

    @property
    def never(self) -> Deadline:
        """A deadline far away."""
        return self.after(1e9)


class Limiter(RateLimiter):
    """A run's rate limiter and what it is made of; the run has far more time than a test, and more places
    unless a test says how many.
    """

    def __init__(self, gate: HandGate, ticker: Ticker, places: int = 10_000) -> None:
        self.stop = Stop()
        self.deadlines = Deadlines(260, 6, ticker)
        super().__init__(gate, RUN, "model", places, self.deadlines, self.stop, ticker)

    async def acquire(self, latest: Deadline, user: str = "user") -> int:
        """The epoch of a slot, whose place is given back at once."""
        async with self.start(user, latest, asyncio.Event()) as epoch:
            return epoch


def starts(
    *offsets: float, epoch: int = 1, grace: float = 1, horizon: float = 10, again: float = 0
) -> dict[str, Any]:
    """An answer with starts, and in how many seconds to ask again."""
    return {
        "slots": list(offsets),
        "graceSeconds": grace,
        "horizonSeconds": horizon,
        "epoch": epoch,
        "reason": None,
        "nextInSeconds": 1,
        "askAgainInSeconds": again,
        "runsOfUsers": {},
    }


def none(reason: str, next_seconds: float | None, horizon: float = 10, again: float = 0) -> dict[str, Any]:
    """An answer without starts."""
    return starts(horizon=horizon, again=again) | {"reason": reason, "nextInSeconds": next_seconds}


def limit(epoch: int, blocked_seconds: float) -> dict[str, Any]:
    """The gate's answer to a 429."""
    return {"epoch": epoch, "rate": 10, "blockedForSeconds": blocked_seconds}


async def settled() -> None:
    """Wait until all tasks have gone as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def epoch_or_none(limiter: Limiter, latest: Deadline) -> int | None:
    """The epoch of a slot, None where there is none."""
    try:
        return await limiter.acquire(latest)
    except NotStarted:
        return None


def waiting(limiter: Limiter, count: int, ticker: Ticker) -> list[asyncio.Task[int | None]]:
    """So many images that wait for a start."""
    return [asyncio.create_task(epoch_or_none(limiter, ticker.never)) for _ in range(count)]


def done(tasks: Iterable[asyncio.Task[int | None]]) -> list[int | str | None]:
    """The epoch of each one's slot, None for one that was refused, "waits" while it waits."""
    return [task.result() if task.done() else "waits" for task in tasks]
