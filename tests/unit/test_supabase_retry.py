"""Several tries within the time of one call."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from worker.errors import NotExecuted, QueueRefused, QueueUnavailable
from worker.supabase.retry import call_with_retry


def hanging(times: int) -> tuple[Callable[[], Awaitable[int]], list[int]]:
    """An attempt that hangs so many times and then answers with its number, and the numbers so far."""
    numbers: list[int] = []

    async def attempt() -> int:
        numbers.append(len(numbers) + 1)
        if len(numbers) <= times:
            await asyncio.Event().wait()
        return numbers[-1]

    return attempt, numbers


async def test_a_try_that_hangs_leaves_time_for_another() -> None:
    """One silence costs half of the time and not the answer."""
    attempt, _ = hanging(1)
    assert await call_with_retry(attempt, "it", 2.0, 3) == 2


@pytest.mark.parametrize(("repeated", "most", "seconds"), [
    (QueueUnavailable, 4, 50.0), (QueueUnavailable, 1, 100.0), (NotExecuted, 4, 100.0),
])  # fmt: skip
async def test_a_try_that_no_other_may_follow_has_all_of_the_time(
    monkeypatch: pytest.MonkeyPatch, repeated: type[QueueUnavailable], most: int, seconds: float
) -> None:
    """An order without an idempotency key is sent once: a shorter time would only lose its answer."""
    cut_at: list[float | None] = []
    timeout_at = asyncio.timeout_at

    def noted(when: float | None) -> asyncio.Timeout:
        cut_at.append(when)
        return timeout_at(when)

    monkeypatch.setattr(asyncio, "timeout_at", noted)
    attempt, _ = hanging(0)
    began = asyncio.get_running_loop().time()
    await call_with_retry(attempt, "it", 100.0, most, repeated)
    assert cut_at == [pytest.approx(began + seconds, abs=20)]


@pytest.mark.parametrize("most", [1, 3])
async def test_the_time_bounds_all_tries(most: int) -> None:
    """However many tries there may be, together they end with the call's time."""
    attempt, numbers = hanging(100)
    async with asyncio.timeout(60):
        with pytest.raises(QueueUnavailable, match="it did not answer in time"):
            await call_with_retry(attempt, "it", 0.2, most)
    assert 1 <= len(numbers) <= most


@pytest.mark.parametrize(
    ("error", "asked"), [(QueueUnavailable("a", "b"), 2), (QueueRefused("a", "b", 400), 1)]
)
async def test_only_what_may_pass_is_tried_again(error: Exception, asked: int) -> None:
    """An outage is tried again up to `most` times, a refusal never; either comes out as it is."""
    numbers: list[int] = []

    async def attempt() -> None:
        numbers.append(1)
        raise error

    with pytest.raises(type(error)) as caught:
        await call_with_retry(attempt, "it", 10.0, 2)
    assert (caught.value, len(numbers)) == (error, asked)
