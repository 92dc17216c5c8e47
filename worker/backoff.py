"""When to try again: full jitter, within a call through `backoff`, and for a job that waits in the queue.

The formula, once in words: draw evenly from zero to the window, where the window is base × 2^(attempt − 1)
and never more than the cap; then add what the server asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import backoff

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

MAX_EXPONENT = 30
"""2^30 base units are beyond any cap; higher attempts would only overflow."""

Uniform = Callable[[float, float], float]
"""A source of evenly distributed numbers between two bounds, like `random.Random().uniform`."""


def retried(
    call: Callable[..., Awaitable[T]],
    on: type[E],
    most: int,
    base_seconds: float,
    cap_seconds: float | None = None,
    *,
    give_up: Callable[[E], bool] = lambda error: False,
    tell: Callable[[E, float], None] = lambda error, wait_seconds: None,
) -> Callable[..., Awaitable[T]]:
    """The call, made again after errors of one kind, up to `most` times in all.

    `give_up` is asked whether an error is the last; `tell` is told of each that is not, with the wait.
    Nothing else knows `backoff`, which is not maintained any more: what replaces it goes here.
    """

    def ends(error: Exception) -> bool:
        return isinstance(error, on) and give_up(error)

    decorated: Callable[..., Awaitable[T]] = backoff.on_exception(
        backoff.expo,
        on,
        max_tries=most,
        factor=base_seconds,
        max_value=cap_seconds,
        jitter=backoff.full_jitter,
        giveup=ends,
        on_backoff=lambda details: tell(details["exception"], details["wait"]),
        logger=None,
    )(call)
    return decorated


def window_seconds(attempt: int, base_seconds: float, cap_seconds: float) -> float:
    """The width of the window after the given attempt (1 = the first), in seconds."""
    exponent = min(max(attempt, 1) - 1, MAX_EXPONENT)
    return min(base_seconds * 2.0**exponent, cap_seconds)


def retry_delay_seconds(
    attempt: int,
    base_seconds: float,
    cap_seconds: float,
    uniform: Uniform,
    server_delay_seconds: float | None = None,
) -> float:
    """Seconds to wait after the given attempt: full jitter, never less than the server asked."""
    window = window_seconds(attempt, base_seconds, cap_seconds)
    at_least = min(max(server_delay_seconds or 0.0, 0.0), 86_400.0)
    return at_least + uniform(0.0, window)
