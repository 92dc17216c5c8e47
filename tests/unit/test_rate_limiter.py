"""A run's rate limiter: who starts when, and what makes a slot void."""

import asyncio

import pytest

from tests.support.hand_gate import (
    FACTS,
    HandGate,
    Limiter,
    Ticker,
    done,
    epoch_or_none,
    limit,
    none,
    settled,
    starts,
    waiting,
)
from worker.errors import QueueUnavailable, QuotaFacts
from worker.run.rate_limiter import UNKNOWN_QUOTA_PAUSE_SECONDS


@pytest.fixture
def ticker() -> Ticker:
    """A clock that can be moved."""
    return Ticker()


async def test_first_come_first_served(ticker: Ticker) -> None:
    """Starts go to those who wait, in the order in which they came, each at its time."""
    limiter = Limiter(HandGate(starts(0, 0.02, 0.04)), ticker)
    order: list[int] = []

    async def image(number: int) -> float:
        assert await limiter.acquire(ticker.never)
        order.append(number)
        return ticker()

    began = ticker()
    times = await asyncio.gather(*(image(number) for number in range(3)))
    assert order == [0, 1, 2]
    assert all(at - began >= offset for at, offset in zip(times, (0, 0.02, 0.04), strict=True))


class Image:
    """A user's image that waits for a start, and then is made until `end`."""

    def __init__(self, limiter: Limiter, user: str, ticker: Ticker, order: list[str]) -> None:
        self._made = asyncio.Event()
        self.task = asyncio.create_task(self._make(limiter, user, ticker, order))

    async def _make(self, limiter: Limiter, user: str, ticker: Ticker, order: list[str]) -> None:
        async with limiter.start(user, ticker.never, asyncio.Event()):
            order.append(user)
            await self._made.wait()

    async def end(self) -> None:
        self._made.set()
        await self.task


async def test_users_take_turns_at_starts(ticker: Ticker) -> None:
    """While another user waits, a user with ten earlier images gets only every second start."""
    gate = HandGate(starts(0), starts(60), none("rate_limited", 60), starts(*[0] * 10))
    limiter, order = Limiter(gate, ticker), list[str]()
    images = [Image(limiter, "many", ticker, order) for _ in range(10)]
    await settled()
    images += [Image(limiter, "few", ticker, order) for _ in range(2)]
    await settled()
    assert order == ["many"]
    ticker.ahead += 60
    limiter.stop.pause()
    limiter.stop.resume()
    await asyncio.wait_for(asyncio.gather(*(image.end() for image in images)), 30)
    assert order[:5] == ["many", "many", "few", "many", "few"]


async def test_images_that_wait_for_a_start_take_no_place(ticker: Ticker) -> None:
    """While one user's wait, another's gets a place as soon as it has a start."""
    gate = HandGate(*[starts(0)] * 10)
    limiter, order = Limiter(gate, ticker, places=2), list[str]()
    many = [Image(limiter, "many", ticker, order) for _ in range(5)]
    await settled()
    few = Image(limiter, "few", ticker, order)
    await settled()
    assert order == ["many", "many"]
    await many[0].end()
    await settled()
    assert order == ["many", "many", "few"]
    await asyncio.wait_for(asyncio.gather(*(image.end() for image in (*many, few))), 30)


async def test_a_place_without_a_start_is_given_back(ticker: Ticker) -> None:
    """If an image is cancelled or refused on the way, the next one gets its place."""
    limiter, order = Limiter(HandGate(starts(0, 60)), ticker, places=2), list[str]()
    images = [Image(limiter, "many", ticker, order) for _ in range(3)]
    await settled()
    images[1].task.cancel()
    await settled()
    ticker.ahead += 60
    limiter.stop.pause()
    limiter.stop.resume()
    await asyncio.wait_for(images[2].end(), 30)
    assert order == ["many", "many"]
    await images[0].end()


async def test_asks_for_no_more_than_have_a_place(ticker: Ticker) -> None:
    gate = HandGate(starts(0), starts(0, 0))
    gate.open.clear()
    limiter, order = Limiter(gate, ticker, places=3), list[str]()
    images = [Image(limiter, "many", ticker, order) for _ in range(9)]
    await gate.entered.wait()
    await settled()
    gate.open.set()
    await settled()
    assert (gate.asked, len(order)) == ([1, 2], 3)
    for image in images:
        image.task.cancel()


async def test_asks_for_as_many_as_wait(ticker: Ticker) -> None:
    """One question gets starts for all who wait; what is over serves those who come later."""
    gate = HandGate(starts(0), starts(0, 0, 0, 0), starts(0))
    gate.open.clear()
    limiter = Limiter(gate, ticker)
    images = waiting(limiter, 4, ticker)
    await gate.entered.wait()
    await settled()
    gate.open.set()
    assert await asyncio.gather(*images) == [1] * 4
    assert await limiter.acquire(ticker.never)
    assert gate.asked == [1, 3]
    assert await limiter.acquire(ticker.never)
    assert gate.asked == [1, 3, 1]


async def test_counts_from_the_answer(ticker: Ticker) -> None:
    """A start's time counts from when the answer came, so that it is never early."""
    gate = HandGate(starts(5))
    gate.open.clear()
    (image,) = waiting(Limiter(gate, ticker), 1, ticker)
    await gate.entered.wait()
    ticker.ahead += 7
    gate.open.set()
    await settled()
    assert done([image]) == ["waits"]
    image.cancel()


async def test_a_start_is_void_after_its_grace(ticker: Ticker) -> None:
    """Within it, it is used."""
    gate = HandGate(starts(0, 1, 2, grace=1), starts(0))
    limiter = Limiter(gate, ticker)
    assert await limiter.acquire(ticker.never)
    ticker.ahead += 2.5  # the second became void at 2, the third is good until 3
    assert await limiter.acquire(ticker.never)
    assert gate.asked == [1]
    assert await limiter.acquire(ticker.never)
    assert gate.asked == [1, 1]


async def test_a_new_epoch_voids_older_starts(ticker: Ticker) -> None:
    """Starts that were given to waiting images are void too."""
    gate = HandGate(starts(0, 0.05, 0.05), starts(0, epoch=2))
    limiter = Limiter(gate, ticker)
    assert await limiter.acquire(ticker.never)
    images = waiting(limiter, 1, ticker)
    await settled()
    gate.limit = limit(2, 0)
    await limiter.report(FACTS, 1)
    assert await images[0]
    assert gate.asked == [1, 1]
    facts = {"period": "minute", "retryAfterSeconds": 30.0, "limit": 10}
    assert gate.reported == [{"p_model": "model", "p_facts": facts, "p_epoch": 1}]


async def test_starts_that_a_429_voided_in_transit_are_not_used(ticker: Ticker) -> None:
    """The answer was on its way."""
    gate = HandGate(starts(0, epoch=1), starts(0, epoch=2))
    gate.open.clear()
    (image,) = waiting(limiter := Limiter(gate, ticker), 1, ticker)
    await gate.entered.wait()
    gate.limit = limit(2, 0)
    await limiter.report(FACTS, 1)
    gate.open.set()
    assert await image
    assert gate.asked == [1, 1]


async def test_overtaken_by_another_model(ticker: Ticker) -> None:
    """Starts of the old model that arrive after a change of model are not used."""
    gate = HandGate(starts(0), starts(0))
    gate.open.clear()
    (image,) = waiting(limiter := Limiter(gate, ticker), 1, ticker)
    await gate.entered.wait()
    limiter.use("newer")
    gate.open.set()
    assert await image
    assert gate.models == ["model", "newer"]


async def test_same_epoch_keeps_starts(ticker: Ticker) -> None:
    """A 429 that did not move the epoch leaves the starts as they are."""
    gate = HandGate(starts(0, 0))
    limiter = Limiter(gate, ticker)
    assert await limiter.acquire(ticker.never)
    await limiter.report(FACTS, 1)
    assert await limiter.acquire(ticker.never)
    assert gate.asked == [1]


async def test_blocked_by_a_429(ticker: Ticker) -> None:
    """During a block nobody asks until a horizon before its end."""
    gate = HandGate(starts(0), starts(10, epoch=2))
    limiter = Limiter(gate, ticker)
    assert await limiter.acquire(ticker.never)
    gate.limit = limit(2, 30)
    await limiter.report(FACTS, 1)
    assert limiter.blocked_until == pytest.approx(ticker() + 30, abs=0.5)
    assert await epoch_or_none(limiter, ticker.after(19)) is None
    assert gate.asked == [1]
    ticker.ahead += 20.5
    (image,) = waiting(limiter, 1, ticker)
    await settled()
    assert (gate.asked, done([image])) == ([1, 1], ["waits"])
    limiter.stop.pause()
    assert await image is None


async def test_block_voids_starts_before_its_end(ticker: Ticker) -> None:
    """A run's own block also voids starts that it already has."""
    gate = HandGate(starts(0, 0, 5, 9))
    limiter = Limiter(gate, ticker)
    assert await limiter.acquire(ticker.never)
    limiter.block(7)
    assert await epoch_or_none(limiter, ticker.after(1)) is None
    ticker.ahead += 5.5
    assert await epoch_or_none(limiter, ticker.after(1)) is None
    ticker.ahead += 3.6
    assert await limiter.acquire(ticker.never)
    assert gate.asked == [1]


async def test_a_429_is_told_under_its_own_epoch(ticker: Ticker) -> None:
    """Concurrent 429s are reported with the epoch of their starts, so the gate learns once."""
    gate = HandGate(starts(0, 0))
    limiter = Limiter(gate, ticker)
    first = await limiter.acquire(ticker.never)
    second = await limiter.acquire(ticker.never)
    gate.limit = limit(2, 0)
    await limiter.report(FACTS, first)
    await limiter.report(FACTS, second)
    assert [told["p_epoch"] for told in gate.reported] == [1, 1]


async def test_nothing_starts_while_a_429_is_reported(ticker: Ticker) -> None:
    """What the gate makes of it may void the slots that the run has."""
    gate = HandGate(starts(0, 0))
    limiter = Limiter(gate, ticker)
    epoch = await limiter.acquire(ticker.never)
    gate.limit = None
    report = asyncio.create_task(limiter.report(FACTS, epoch))
    await settled()
    (image,) = waiting(limiter, 1, ticker)
    await settled()
    assert (len(gate.reported), done([image])) == (1, ["waits"])
    report.cancel()
    assert await asyncio.wait_for(image, 30) == 1


async def test_a_429_that_cannot_be_told_keeps_this_run_quiet(ticker: Ticker) -> None:
    """Without the database the run waits by itself for as long as Gemini said, or a while."""
    gate = HandGate(starts(0, 0))
    limiter = Limiter(gate, ticker)
    gate.limit = QueueUnavailable("no_answer", "Supabase did not answer.")
    for seconds in (30.0, None):
        limiter.blocked_until = 0.0
        await limiter.report(QuotaFacts("minute", seconds, 10), 1)
        expected = seconds or UNKNOWN_QUOTA_PAUSE_SECONDS
        assert limiter.blocked_until == pytest.approx(ticker() + expected, abs=0.5)
