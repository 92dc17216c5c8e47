"""Retries calls to Supabase within the time limit of the call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from worker.common.deadline import Within, timeout
from worker.errors import QueueUnavailable

T = TypeVar("T")


async def call_with_retry(
    attempt: Callable[[], Awaitable[T]],
    what: str,
    within: Within,
    most: int,
    repeated: type[QueueUnavailable] = QueueUnavailable,
) -> T:
    """Return the first answer, with at most `most` tries and waits of up to 0.5, 1, then 2 s between them.

    A hanging try times out after half of the remaining time, so that another can follow; the last try may
    use all of it. Only errors of type `repeated` are retried.
    Raises QueueUnavailable when the time or the tries are used up.
    """
    tries = 0

    async def one(whole: asyncio.Timeout) -> T:
        nonlocal tries
        tries += 1
        ends, now = whole.when(), asyncio.get_running_loop().time()
        with _timeouts_translated(what):
            last = tries == most or repeated is not QueueUnavailable  # then a timeout is not retried
            async with asyncio.timeout_at(ends if ends is None or last else (now + ends) / 2):
                return await attempt()

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(repeated),
        stop=stop_after_attempt(most),
        wait=wait_random_exponential(multiplier=0.5, max=2.0),
        reraise=True,
    )
    with _timeouts_translated(what):
        async with timeout(within) as whole:
            return await retrying(one, whole)


@contextmanager
def _timeouts_translated(what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise QueueUnavailable("timeout", f"{what} did not answer in time") from exc
