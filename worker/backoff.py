"""Retry delays with full jitter: retries within a call (through `backoff`), and of jobs in the queue.

Formula: a uniform random delay between zero and min(cap, base × 2^(attempt − 1)), plus the delay that the
server asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import backoff

T = TypeVar("T")

MAX_EXPONENT = 30
"""2^30 base units exceed any cap; higher exponents could overflow."""

Uniform = Callable[[float, float], float]
"""A source of uniformly distributed numbers between two bounds, like `random.Random().uniform`."""


def retried(
    call: Callable[..., Awaitable[T]], on: type[Exception], most: int, base_seconds: float, cap_seconds: float
) -> Callable[..., Awaitable[T]]:
    """Wrap `call` so that it is retried after errors of type `on`, with at most `most` tries in total.

    `backoff` is no longer maintained, so only this function uses it.
    """
    decorated: Callable[..., Awaitable[T]] = backoff.on_exception(
        backoff.expo,
        on,
        max_tries=most,
        factor=base_seconds,
        max_value=cap_seconds,
        jitter=backoff.full_jitter,
        logger=None,
    )(call)
    return decorated


def window_seconds(attempt: int, base_seconds: float, cap_seconds: float) -> float:
    """The upper bound of the random delay after the given attempt (1 = the first), in seconds."""
    exponent = min(max(attempt, 1) - 1, MAX_EXPONENT)
    return min(base_seconds * 2.0**exponent, cap_seconds)


def retry_delay_seconds(
    attempt: int,
    base_seconds: float,
    cap_seconds: float,
    uniform: Uniform,
    server_delay_seconds: float | None = None,
) -> float:
    """Seconds to wait after the given attempt: full jitter, never less than the server's delay."""
    window = window_seconds(attempt, base_seconds, cap_seconds)
    at_least = min(max(server_delay_seconds or 0.0, 0.0), 86_400.0)
    return at_least + uniform(0.0, window)
