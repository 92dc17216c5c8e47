"""Waiting for a slot: when nobody waits any longer, and what is asked of the gate meanwhile."""

import asyncio
import math

import pytest

from tests.hand_gate import HandGate, Ticker, never, none, settled, starts, waiting
from worker.errors import QueueUnavailable
from worker.slots import LEAST_WAIT_SECONDS, Slots


@pytest.fixture
def ticker() -> Ticker:
    """A clock that can be moved."""
    return Ticker()


async def test_refused_before_latest(ticker: Ticker) -> None:
    """Who cannot start in time is told at once, and the start stays for who can."""
    gate = HandGate(starts(8))
    slots = Slots(gate, ticker)
    began = ticker()
    assert await slots.take(lambda: began + 5) is None
    assert ticker() - began < 1
    assert gate.within == [pytest.approx(5, abs=0.5)]
    ticker.ahead += 8
    assert await slots.take(never)
    assert gate.asked == [1]


async def test_latest_in_the_past(ticker: Ticker) -> None:
    """Who is too late already does not even ask."""
    gate = HandGate()
    assert await Slots(gate, ticker).take(lambda: ticker() - 1) is None
    assert gate.asked == []


@pytest.mark.parametrize(
    ("reason", "seconds"), [("paused", None), ("daily_cap", 30_000), ("rate_limited", 61)]
)
async def test_why_there_was_none(ticker: Ticker, reason: str, seconds: float | None) -> None:
    """A gate without a start in time refuses at once, and why and how long is remembered."""
    slots = Slots(HandGate(none(reason, seconds)), ticker)
    assert await slots.take(lambda: ticker() + 60) is None
    assert slots.refusal == reason
    assert slots.blocked_until - ticker() == pytest.approx(seconds or -math.inf, abs=0.5)


async def test_asks_again(ticker: Ticker) -> None:
    """A gate whose next start is near is asked again, but not without pause."""
    gate = HandGate(none("rate_limited", 0), none("rate_limited", 0), starts(0))
    slots = Slots(gate, ticker)
    began = ticker()
    assert await slots.take(never)
    assert ticker() - began >= 2 * LEAST_WAIT_SECONDS * 0.9
    assert (gate.asked, slots.refusal) == ([1, 1, 1], None)


async def test_close_wakes_all(ticker: Ticker) -> None:
    """Closing tells everybody who waits at once; reopening lets the starts be used that are still good."""
    gate = HandGate(starts(0, 50, 60))
    slots = Slots(gate, ticker)
    assert await slots.take(never)
    images = waiting(slots, 4)
    await settled()
    slots.close()
    assert await asyncio.wait_for(asyncio.gather(*images), 5) == [None] * 4
    assert await slots.take(never) is None
    slots.reopen()
    ticker.ahead += 50
    assert await slots.take(never)
    assert gate.asked == [1]


async def test_close_while_asking(ticker: Ticker) -> None:
    """Nobody starts with an answer that comes after closing."""
    gate = HandGate(starts(0))
    gate.open.clear()
    (image,) = waiting(slots := Slots(gate, ticker), 1)
    await gate.entered.wait()
    slots.close()
    gate.open.set()
    assert await image is None


async def test_lost_answer(ticker: Ticker) -> None:
    """When the gate cannot be asked, the one who asked is told; the next asks anew."""
    gate = HandGate(QueueUnavailable("no_answer", "Supabase did not answer."), starts(0))
    slots = Slots(gate, ticker)
    first, second = waiting(slots, 2)
    with pytest.raises(QueueUnavailable):
        await first
    assert await second
    assert gate.asked == [1, 1]


async def test_cut_while_waiting(ticker: Ticker) -> None:
    """Who is cancelled while waiting uses up no start and counts no longer."""
    gate = HandGate(starts(0, 50), starts(0))
    slots = Slots(gate, ticker)
    assert await slots.take(never)
    gone, stays = waiting(slots, 2)
    await settled()
    gone.cancel()
    await settled()
    ticker.ahead += 55
    slots.close()
    assert await stays is None
    slots.reopen()
    assert await slots.take(never)
    assert gate.asked == [1, 1]


async def test_another_model(ticker: Ticker) -> None:
    """A change-over leaves the old gate's starts and block behind."""
    slots = Slots(HandGate(starts(0, 0)), ticker)
    assert await slots.take(never)
    slots.block(100)
    newer = HandGate(starts(0))
    slots.move(newer)
    assert await slots.take(never)
    assert newer.asked == [1]
