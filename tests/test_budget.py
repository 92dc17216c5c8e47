"""The run's time: deadlines in order, inside the invocation, and drawn nearer by a shutdown."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from worker.budget import Budget, Deadline
from worker.settings import MAX_RUN_SECONDS


class Clock:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.floats(min_value=1, max_value=3600), st.floats(min_value=2, max_value=120))
def test_deadlines_follow_each_other_within_the_invocation(seconds: float, margin: float) -> None:
    """Start, generate, save, answer, end: in this order for every budget, and never beyond 270 s."""
    budget = Budget(seconds, margin, Clock())
    assert budget.began < budget.start <= budget.generate < budget.save < budget.answer < budget.end
    assert budget.end - budget.began <= min(seconds, MAX_RUN_SECONDS) + 1e-6


def test_the_default_margins() -> None:
    """Of 240 s and a margin of 20 s: calls are cut at 220, saved by 232, answered at 235."""
    budget = Budget(240, 20, Clock())
    assert [round(d - budget.began) for d in (budget.generate, budget.save, budget.answer)] == [220, 232, 235]


@given(st.floats(min_value=0, max_value=60))
def test_nothing_starts_that_could_not_finish(latency: float) -> None:
    """A call that takes the observed latency ends by the generate deadline."""
    budget = Budget(240, 20, Clock())
    budget.latency_seconds = latency
    assert budget.start + latency <= budget.generate + 1e-6


def test_a_small_budget_still_starts_something() -> None:
    """Before any image has been timed, the guess never swallows a short run whole."""
    budget = Budget(6, 20, Clock())
    assert budget.start > budget.began


async def test_a_shutdown_draws_the_deadlines_nearer_and_cuts_calls() -> None:
    """What is under way at SIGTERM is cut in time for the answer to leave, whatever it was to wait for."""
    loop = asyncio.get_running_loop()
    budget = Budget(240, 20, loop.time)
    tasks = [asyncio.create_task(hang(budget.until(deadline))) for deadline in get_args(Deadline)]
    await settled()
    budget.shorten(0.2)
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert [type(end) for end in ends] == [TimeoutError] * len(tasks)
    assert budget.end <= loop.time() + 0.2


async def test_a_shutdown_finds_calls_at_their_end() -> None:
    """A call that is being cut already, when the shutdown comes, keeps no other from being cut."""
    budget = Budget(240, 20, asyncio.get_running_loop().time)
    tasks = [asyncio.create_task(hang(budget.until("save", seconds))) for seconds in (0, 200)]
    await settled(1)
    # The first timeout fires before this runs, and its task learns of it after.
    asyncio.get_running_loop().call_soon(budget.shorten, 0.1)
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert [type(end) for end in ends] == [TimeoutError] * 2


async def test_a_shutdown_leaves_a_nearer_bound_alone() -> None:
    """A call's own limit still counts where it comes before the deadlines that were drawn nearer."""
    loop = asyncio.get_running_loop()
    budget = Budget(240, 20, loop.time)
    task = asyncio.create_task(hang(budget.until("save", 0.1)))
    await settled()
    budget.shorten(120)
    done, _ = await asyncio.wait([task], timeout=30)
    assert done
    assert isinstance(task.exception(), TimeoutError)


async def settled(turns: int = 10) -> None:
    """Let every task run as far as it can."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def hang(within: AbstractAsyncContextManager[object]) -> None:
    """A call that is never answered."""
    async with within:
        await asyncio.Event().wait()


def test_a_shutdown_never_gives_more_time() -> None:
    """A run that is nearly over stays so."""
    clock = Clock()
    budget = Budget(240, 20, clock)
    clock.now += 238
    end = budget.end
    budget.shorten(8)
    assert budget.end == end
