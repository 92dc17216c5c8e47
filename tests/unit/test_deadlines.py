"""The run's time: deadlines in order, inside the invocation, and moved nearer by a shutdown."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from worker.common.deadline import Deadline
from worker.run.deadlines import Deadlines
from worker.settings import MAX_RUN_SECONDS


class Clock:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.floats(min_value=1, max_value=3600), st.floats(min_value=2, max_value=120))
def test_deadlines_follow_each_other_within_the_invocation(seconds: float, margin: float) -> None:
    """Start, generate, save, settle, answer, end: in this order for every run, and never beyond 270 s."""
    run = Deadlines(seconds, margin, Clock())
    assert run.began < run.start.at <= run.generate.at
    assert run.generate.at < run.save.at < run.settle.at < run.answer.at < run.end.at
    assert run.end.at - run.began <= min(seconds, MAX_RUN_SECONDS) + 1e-6


def test_the_default_margins() -> None:
    """With 240 s and a margin of 20 s, requests are cut at 220, stored by 232, and answered at 235."""
    run = Deadlines(240, 20, Clock())
    assert [round(d.remaining) for d in (run.generate, run.save, run.answer)] == [220, 232, 235]


@given(st.floats(min_value=0, max_value=60))
def test_nothing_starts_that_could_not_finish(latency: float) -> None:
    """A call that takes the observed latency ends by the generate deadline."""
    run = Deadlines(240, 20, Clock())
    run.expect_latency(latency)
    assert run.start.at + latency <= run.generate.at + 1e-6


def test_a_small_budget_still_starts_something() -> None:
    """Before any image has been timed, the guess never swallows a short run whole."""
    run = Deadlines(6, 20, Clock())
    assert run.start.at > run.began


async def test_a_shutdown_draws_the_deadlines_nearer_and_cuts_calls() -> None:
    """Calls pending at SIGTERM are cancelled in time for the answer."""
    loop = asyncio.get_running_loop()
    run = Deadlines(240, 20, loop.time)
    bounds = [run.generate, run.save, run.answer, run.finish, run.save.within(230).within(229)]
    tasks = [asyncio.create_task(hang(bound)) for bound in bounds]
    await settled()
    run.shorten(0.2)
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert [type(end) for end in ends] == [TimeoutError] * len(tasks)
    assert run.end.at <= loop.time() + 0.2


async def test_a_shutdown_finds_calls_at_their_end() -> None:
    """A call that is already being cancelled does not keep the others from being cancelled."""
    run = Deadlines(240, 20, asyncio.get_running_loop().time)
    tasks = [asyncio.create_task(hang(run.save.within(seconds))) for seconds in (0, 200)]
    await settled(1)
    # The first timeout fires before this runs, and its task learns of it after.
    asyncio.get_running_loop().call_soon(run.shorten, 0.1)
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert [type(end) for end in ends] == [TimeoutError] * 2


async def test_a_shutdown_leaves_a_nearer_bound_alone() -> None:
    """A call's own limit still counts where it comes before the deadlines that were drawn nearer."""
    run = Deadlines(240, 20, asyncio.get_running_loop().time)
    task = asyncio.create_task(hang(run.save.within(0.1)))
    await settled()
    run.shorten(120)
    done, _ = await asyncio.wait([task], timeout=30)
    assert done
    assert isinstance(task.exception(), TimeoutError)


async def settled(turns: int = 10) -> None:
    """Let every task run as far as it can."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def hang(deadline: Deadline) -> None:
    """A call that is never answered."""
    async with deadline.timeout():
        await asyncio.Event().wait()


def test_a_shutdown_never_gives_more_time() -> None:
    """A run that is nearly over stays so."""
    clock = Clock()
    run = Deadlines(240, 20, clock)
    clock.now += 238
    end = run.end.at
    run.shorten(8)
    assert run.end.at == end


def test_a_deadline_within_another_is_never_later() -> None:
    """This also holds when the outer deadline is brought forward."""
    clock = Clock()
    run = Deadlines(240, 20, clock)
    soon, late = run.save.within(10), run.save.within(500)
    assert (soon.remaining, late.at) == (10, run.save.at)
    clock.now += 100
    assert soon.passed
    run.shorten(8)
    assert late.at == run.save.at < clock.now + 8


def test_a_shutdown_starts_nothing_that_could_not_finish() -> None:
    """The latest start moves with the deadlines."""
    run = Deadlines(240, 20, Clock())
    run.expect_latency(30)
    run.shorten(8)
    assert run.start.passed


def test_reporting_an_image_that_was_not_stored_leaves_time_to_settle_its_job() -> None:
    """Half of what is left, also if storing took until its deadline or a shutdown."""
    clock = Clock()
    run = Deadlines(240, 20, clock)
    assert run.report.at <= run.save.at
    for seconds in (231.5, 232.5):
        clock.now = run.began + seconds
        assert 0 < run.report.remaining <= run.settle.remaining / 2
    clock.now = run.settle.at
    assert run.report.passed


def test_the_last_call_has_half_of_what_is_left() -> None:
    """Even a run that is late has time to tell the database that it has ended."""
    clock = Clock()
    run = Deadlines(240, 20, clock)
    assert run.finish.at == run.answer.at
    clock.now += 238
    assert run.finish.remaining == 1
