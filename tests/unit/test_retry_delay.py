"""The retry policy: full jitter inside a capped window, never before the server allows."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from worker.common.retry_delay import retry_delay_seconds, window_seconds

attempts = st.integers(min_value=-5, max_value=10**6)
bases = st.floats(min_value=0.1, max_value=600)
caps = st.floats(min_value=1, max_value=86_400)


@given(attempts, bases, caps)
def test_the_window_is_capped_for_every_attempt(attempt: int, base: float, cap: float) -> None:
    """No attempt number overflows or exceeds the cap."""
    assert 0 < window_seconds(attempt, base, cap) <= max(cap, base)


def test_the_window_doubles_until_the_cap() -> None:
    """The formula of docs/settings.md: base × 2^(attempt − 1), at most the cap."""
    assert [window_seconds(n, 10, 600) for n in range(1, 9)] == [10, 20, 40, 80, 160, 320, 600, 600]


@given(attempts, bases, caps, st.floats(min_value=0, max_value=1000), st.integers(0, 2**32))
def test_a_delay_is_within_the_window_after_the_servers(
    attempt: int, base: float, cap: float, server: float, seed: int
) -> None:
    """The random delay is added to the server's delay."""
    uniform = random.Random(seed).uniform
    delay = retry_delay_seconds(attempt, base, cap, uniform, server)
    assert server <= delay <= server + window_seconds(attempt, base, cap)


def test_the_whole_window_is_reached() -> None:
    """Full jitter draws from all of the window, not from a corner of it."""
    uniform = random.Random(1).uniform
    delays = [retry_delay_seconds(4, 10, 600, uniform) for _ in range(2000)]
    for tenth in range(10):
        within = [d for d in delays if tenth * 8 <= d < (tenth + 1) * 8]
        assert 120 < len(within) < 280, f"{tenth * 8} to {tenth * 8 + 8} s: {len(within)} of 2000"
    assert max(delays) > 79
    assert min(delays) < 1


def test_at_the_cap_not_everybody_waits_the_same() -> None:
    """The draw is made inside the cap; capping a drawn value would synchronise all who wait longest."""
    uniform = random.Random(2).uniform
    delays = {round(retry_delay_seconds(50, 10, 600, uniform), 3) for _ in range(100)}
    assert len(delays) > 95
