"""The in-call retry of what is asked of Supabase: several tries within the time that a call is given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import backoff

from worker.errors import QueueUnavailable

T = TypeVar("T")


async def in_tries(attempt: Callable[[], Awaitable[T]], what: str, timeout_seconds: float, most: int) -> T:
    """The answer of the first try that gets one; between two tries a wait of up to 0.5, 1, then 2 s.

    A try that hangs is given up at half of the time then left, so that there is another; only the last of
    `most` may take it all. Raises QueueUnavailable once the time or the tries are used up.
    """
    clock = asyncio.get_running_loop().time
    ends = clock() + timeout_seconds
    tries = 0

    @backoff.on_exception(
        backoff.expo,
        QueueUnavailable,
        max_tries=most,
        factor=0.5,
        max_value=2,
        jitter=backoff.full_jitter,
        logger=None,
    )
    async def one() -> T:
        nonlocal tries
        tries += 1
        left = ends - clock()
        return await _in_time(attempt, what, left if tries == most else left / 2)

    return await _in_time(one, what, timeout_seconds)


async def _in_time(attempt: Callable[[], Awaitable[T]], what: str, timeout_seconds: float) -> T:
    try:
        async with asyncio.timeout(timeout_seconds):
            return await attempt()
    except TimeoutError as exc:
        raise QueueUnavailable("timeout", f"{what} did not answer in time") from exc
