"""The database's time, carried on by a monotonic clock."""

import pytest

from worker.supabase.database_time import DatabaseTime


@pytest.mark.parametrize("answered", ["2026-03-29T00:59:58.5+00:00", "2026-03-29T02:59:58.5+02:00"])
def test_a_future_time_counts_from_the_answer(answered: str) -> None:
    """In the answer's time zone."""
    now = 100.0
    time = DatabaseTime(lambda: now)
    time.set(answered)
    now = 101.25
    assert time.after(2.2505) in ("2026-03-29T01:00:02.000+00:00", "2026-03-29T03:00:02.000+02:00")
    assert str(time.after(0))[-6:] == answered[-6:]


def test_there_is_no_time_without_an_answer_or_a_delay() -> None:
    """None, not a guess."""
    time = DatabaseTime(lambda: 0.0)
    assert time.after(1) is None
    time.set("2026-03-29T00:00:00+00:00")
    assert time.after(None) is None
