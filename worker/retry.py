"""When to try again: full jitter through `backoff`, with a server's own delay as the lower bound.

The formula, once in words: draw evenly from zero to the window, where the window is base × 2^(attempt − 1)
and never more than the cap; then add what the server asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import backoff

MAX_EXPONENT = 30
"""2^30 base units are beyond any cap; higher attempts would only overflow."""

Uniform = Callable[[float, float], float]
"""A source of evenly distributed numbers between two bounds, like `random.Random().uniform`."""


def window_seconds(attempt: int, base_seconds: float, cap_seconds: float) -> float:
    """The width of the window after the given attempt (1 = the first), in seconds."""
    exponent = min(max(attempt, 1) - 1, MAX_EXPONENT)
    waits = backoff.expo(base=2, factor=base_seconds, max_value=cap_seconds)
    # The generator yields once before its first value.
    return float(next(islice(waits, exponent + 1, None)))


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
