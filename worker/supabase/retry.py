"""The in-call retry of what is asked of Supabase: several tries within the time that a call is given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from worker.backoff import retried
from worker.deadline import Within, timeout
from worker.errors import QueueUnavailable

T = TypeVar("T")


async def call_with_retry(
    attempt: Callable[[], Awaitable[T]],
    what: str,
    within: Within,
    most: int,
    repeated: type[QueueUnavailable] = QueueUnavailable,
) -> T:
    """The answer of the first try that gets one; between two tries a wait of up to 0.5, 1, then 2 s.

    A try that hangs is given up at half of the time then left, so that there is another; only the last of
    `most` may take it all. Only errors of the kind `repeated` are worth another try.
    Raises QueueUnavailable once the time or the tries are used up.
    """
    tries = 0

    async def one(whole: asyncio.Timeout) -> T:
        nonlocal tries
        tries += 1
        ends, now = whole.when(), asyncio.get_running_loop().time()
        with _told(what):
            last = tries == most or repeated is not QueueUnavailable  # then a hang is not worth another try
            async with asyncio.timeout_at(ends if ends is None or last else (now + ends) / 2):
                return await attempt()

    with _told(what):
        async with timeout(within) as whole:
            return await retried(one, repeated, most, 0.5, 2.0)(whole)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise QueueUnavailable("timeout", f"{what} did not answer in time") from exc
