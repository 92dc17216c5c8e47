"""Retries calls to Supabase within the time limit of the call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import backoff

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

    # backoff is archived, so it is used here alone and can be replaced by any library that retries.
    retried = backoff.on_exception(
        backoff.expo,
        repeated,
        max_tries=most,
        factor=0.5,
        max_value=2.0,
        jitter=backoff.full_jitter,
        logger=None,
    )(one)
    with _timeouts_translated(what):
        async with timeout(within) as whole:
            return await retried(whole)


@contextmanager
def _timeouts_translated(what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise QueueUnavailable("timeout", f"{what} did not answer in time") from exc
