"""Waiting for a slot: when nobody waits any longer, and what is asked of the gate meanwhile."""

import asyncio
import math
from typing import Any

import pytest

from tests.support.hand_gate import HandGate, Limiter, Ticker, epoch_or_none, none, settled, starts, waiting
from worker.errors import QueueUnavailable, QuotaFacts
from worker.run.outcome import NotStarted
from worker.run.rate_limiter import LEAST_WAIT_SECONDS, MOST_SLOTS


@pytest.fixture
def ticker() -> Ticker:
    """A clock that can be moved."""
    return Ticker()


async def test_an_image_that_cannot_start_in_time_is_told_at_once(ticker: Ticker) -> None:
    """The start stays for one that can."""
    gate = HandGate(starts(8))
    limiter = Limiter(gate, ticker)
    began = ticker()
    assert await epoch_or_none(limiter, ticker.after(5)) is None
    assert ticker() - began < 1
    assert gate.within == [pytest.approx(5, abs=0.5)]
    ticker.ahead += 8
    assert await limiter.acquire(ticker.never)
    assert gate.asked == [1]


async def test_latest_in_the_past(ticker: Ticker) -> None:
    """Who is too late already does not even ask."""
    gate = HandGate()
    assert await epoch_or_none(Limiter(gate, ticker), ticker.after(-1)) is None
    assert gate.asked == []


@pytest.mark.parametrize(
    ("reason", "seconds"), [("paused", None), ("daily_cap", 30_000), ("rate_limited", 61)]
)
async def test_why_there_was_none(ticker: Ticker, reason: str, seconds: float | None) -> None:
    """A gate without a start in time refuses at once, and why and how long is remembered."""
    limiter = Limiter(HandGate(none(reason, seconds)), ticker)
    assert await epoch_or_none(limiter, ticker.after(60)) is None
    assert limiter.refusal == reason
    assert limiter.blocked_until - ticker() == pytest.approx(seconds or -math.inf, abs=0.5)


async def test_a_gate_with_a_near_start_is_asked_again_after_a_pause(ticker: Ticker) -> None:
    """The worker does not repeat the request without a pause."""
    gate = HandGate(none("rate_limited", 0), none("rate_limited", 0), starts(0))
    limiter = Limiter(gate, ticker)
    began = ticker()
    assert await limiter.acquire(ticker.never)
    assert ticker() - began >= 2 * LEAST_WAIT_SECONDS * 0.9
    assert (gate.asked, limiter.refusal) == ([1, 1, 1], None)


@pytest.mark.parametrize("answer", [none("rate_limited", 5, again=30), starts(0, again=30)])
async def test_does_not_ask_before_its_turn(ticker: Ticker, answer: dict[str, Any]) -> None:
    """An image that comes before the time that the gate has told waits for it, whoever asked."""
    gate = HandGate(answer, starts(0, 0))
    limiter = Limiter(gate, ticker)
    images = waiting(limiter, 2, ticker)
    await settled()
    assert gate.asked == [1]
    ticker.ahead += 29
    limiter.stop.pause()
    limiter.stop.resume()
    await settled()
    assert gate.asked == [1]
    ticker.ahead += 1
    assert [epoch for epoch in await asyncio.gather(*images) if epoch] == [1, 1]
    assert len(gate.asked) == 2


async def test_a_turn_that_comes_too_late_is_not_waited_for(ticker: Ticker) -> None:
    """Whoever may start only before their run's turn is told at once."""
    gate = HandGate(none("rate_limited", 5, again=30))
    limiter = Limiter(gate, ticker)
    assert await epoch_or_none(limiter, ticker.after(20)) is None
    assert await epoch_or_none(limiter, ticker.after(20)) is None
    assert gate.asked == [1]


async def wake(limiter: Limiter) -> None:
    """Wakes the image that sleeps until its slot."""
    limiter.stop.pause()
    limiter.stop.resume()
    await settled()


async def test_asks_at_once_for_another_user(ticker: Ticker) -> None:
    """A user who comes to a run that waits for its turn may have an earlier one; each is named."""
    gate = HandGate(none("rate_limited", 5, again=30), starts(0, 0))
    limiter = Limiter(gate, ticker)
    first = asyncio.create_task(limiter.acquire(ticker.never, "many"))
    await settled()
    second = asyncio.create_task(limiter.acquire(ticker.never, "few"))
    await settled()
    assert gate.users == [["many"], ["few", "many"]]
    assert list(await asyncio.gather(first, second)) == [1, 1]


async def test_an_image_does_not_wait_for_its_turn_when_its_job_has_ended(ticker: Ticker) -> None:
    """The image's wait ends as soon as the job's end is known."""
    limiter = Limiter(HandGate(none("rate_limited", 5, again=3000)), ticker)
    ended, never = asyncio.Event(), ticker.never

    async def image() -> None:
        async with limiter.start("user", never, ended):
            pass

    waits = asyncio.create_task(image())
    await settled()
    ended.set()
    limiter.look_again()
    with pytest.raises(NotStarted, match="stopped"):
        await asyncio.wait_for(waits, 30)


async def test_asks_at_once_for_another_user_while_it_has_slots(ticker: Ticker) -> None:
    """When they are used, that user's turn may have passed. It asks for no more than it lacks."""
    gate = HandGate(starts(60, 61, again=30), starts(62, again=30))
    limiter = Limiter(gate, ticker)
    images = [asyncio.create_task(limiter.acquire(ticker.never, "many")) for _ in range(3)]
    await settled()
    images.append(asyncio.create_task(limiter.acquire(ticker.never, "few")))
    await wake(limiter)
    assert gate.users == [["many"], ["few", "many"]]
    assert gate.asked == [1, 2]
    for image in images:
        image.cancel()


async def test_asks_again_for_a_user_who_came_during_a_question(ticker: Ticker) -> None:
    """The answer's time to ask again is not that user's."""
    gate = HandGate(starts(60, 61, again=30), starts(62, again=30))
    gate.open.clear()
    limiter = Limiter(gate, ticker)
    images = [asyncio.create_task(limiter.acquire(ticker.never, "many")) for _ in range(3)]
    await gate.entered.wait()
    images.append(asyncio.create_task(limiter.acquire(ticker.never, "few")))
    await settled()
    gate.open.set()
    await settled()
    assert gate.users == [["many"], ["few", "many"]]
    for image in images:
        image.cancel()


async def test_comes_to_a_new_users_turn_also_while_it_has_slots(ticker: Ticker) -> None:
    """When these are used, that turn may have passed."""
    gate = HandGate(starts(60, 61, again=30), none("rate_limited", 5, again=30), starts(62, 63, again=30))
    limiter = Limiter(gate, ticker)
    images = [asyncio.create_task(limiter.acquire(ticker.never, "many")) for _ in range(4)]
    await settled()
    images.append(asyncio.create_task(limiter.acquire(ticker.never, "few")))
    await wake(limiter)
    await wake(limiter)
    assert gate.asked == [1, 3]
    ticker.ahead += 30
    await wake(limiter)
    await wake(limiter)
    assert gate.asked == [1, 3, 3]
    for image in images:
        image.cancel()


async def test_a_pause_wakes_all_waiting_images_at_once(ticker: Ticker) -> None:
    """After a resume, valid starts are used."""
    gate = HandGate(starts(0, 50, 60))
    limiter = Limiter(gate, ticker)
    assert await limiter.acquire(ticker.never)
    images = waiting(limiter, 4, ticker)
    await settled()
    limiter.stop.pause()
    assert await asyncio.wait_for(asyncio.gather(*images), 5) == [None] * 4
    assert await epoch_or_none(limiter, ticker.never) is None
    limiter.stop.resume()
    ticker.ahead += 50
    assert await limiter.acquire(ticker.never)
    assert gate.asked == [1]


async def test_an_answer_after_a_pause_starts_nothing(ticker: Ticker) -> None:
    """Nobody starts with an answer that comes after closing."""
    gate = HandGate(starts(0))
    gate.open.clear()
    (image,) = waiting(limiter := Limiter(gate, ticker), 1, ticker)
    await gate.entered.wait()
    limiter.stop.pause()
    gate.open.set()
    assert await image is None


async def test_a_failed_request_to_the_gate_is_the_askers_error(ticker: Ticker) -> None:
    """The next image asks again."""
    gate = HandGate(QueueUnavailable("no_answer", "Supabase did not answer."), starts(0))
    limiter = Limiter(gate, ticker)
    first, second = waiting(limiter, 2, ticker)
    with pytest.raises(QueueUnavailable):
        await first
    assert await second
    assert gate.asked == [1, 1]


async def test_a_cancelled_wait_uses_no_start(ticker: Ticker) -> None:
    """Who is cancelled while waiting uses up no start and counts no longer."""
    gate = HandGate(starts(0, 50), starts(0))
    limiter = Limiter(gate, ticker)
    assert await limiter.acquire(ticker.never)
    gone, stays = waiting(limiter, 2, ticker)
    await settled()
    gone.cancel()
    await settled()
    ticker.ahead += 55
    limiter.stop.pause()
    assert await stays is None
    limiter.stop.resume()
    assert await limiter.acquire(ticker.never)
    assert gate.asked == [1, 1]


async def test_a_change_of_model_drops_the_old_gates_starts_and_block(ticker: Ticker) -> None:
    """The new gate is asked."""
    gate = HandGate(starts(0, 0), starts(0))
    limiter = Limiter(gate, ticker)
    assert await limiter.acquire(ticker.never)
    limiter.block(100)
    limiter.use("newer")
    assert await asyncio.wait_for(limiter.acquire(ticker.never), 10)
    assert gate.models == ["model", "newer"]


async def test_one_question_asks_for_no_more_than_the_database_gives(ticker: Ticker) -> None:
    """However many images wait."""
    gate = HandGate(starts(0), starts(*[0] * MOST_SLOTS, grace=60), starts(0))
    gate.open.clear()
    images = waiting(Limiter(gate, ticker), MOST_SLOTS + 2, ticker)
    await settled()
    gate.open.set()
    await asyncio.gather(*images)
    assert gate.asked == [1, MOST_SLOTS, 1]


@pytest.mark.parametrize("question", ["acquire", "report"])
async def test_a_stopped_run_waits_for_no_gate(ticker: Ticker, question: str) -> None:
    """A question that has no answer when the run is stopped is given up at the deadlines moved nearer."""
    gate = HandGate()
    gate.open.clear()
    gate.limit = None
    limiter = Limiter(gate, ticker)
    facts = QuotaFacts("minute", 21.5, 10)
    asked = limiter.acquire(ticker.never) if question == "acquire" else limiter.report(facts, 4)
    task = asyncio.ensure_future(asked)
    await gate.entered.wait()
    limiter.deadlines.shorten(0.2)
    done, _ = await asyncio.wait([task], timeout=30)
    assert done
    if question == "acquire":
        assert isinstance(task.exception(), QueueUnavailable)
    else:
        assert task.result() is None
        assert limiter.blocked_until > ticker()
