"""Retry delays of jobs, with full jitter.

Formula: a uniform random delay between zero and min(cap, base × 2^(attempt − 1)), plus the delay that the
server asked for.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_EXPONENT = 30
"""2^30 base units exceed any cap; higher exponents could overflow."""

Uniform = Callable[[float, float], float]
"""A source of uniformly distributed numbers between two bounds, like `random.Random().uniform`."""


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
