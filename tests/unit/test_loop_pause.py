"""How long the loop sleeps: after a run with nothing to do, and after one that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cli.loop import failure_pause_seconds, pause_seconds
from worker.run.summary import IMAGE_COUNTS

fractions = st.floats(0, 1)
waits = st.floats(1, 3600)


def ended(reason: str, due: float | None = None, completed: int = 0, **images: int) -> dict[str, Any]:
    """The fields of a summary that decide the pause."""
    counts = dict.fromkeys(IMAGE_COUNTS, 0) | images
    return {
        "stopReason": reason,
        "nextAttemptInSeconds": due,
        "completed": completed,
        "failed": 0,
        "images": counts,
    }


def at(fraction: float) -> Callable[[float, float], float]:
    """A source of chance that always draws this part of the way between its bounds."""
    return lambda least, most: least + (most - least) * fraction


@pytest.mark.parametrize("reason", ["budget", "max_jobs", "queue_empty"])
def test_no_pause_while_there_is_work(reason: str) -> None:
    """After a run that did something, the next claim is made at once: it knows what is due and when."""
    assert pause_seconds(ended(reason, 100.0, completed=1), 30.0, at(0)) == 0
    assert pause_seconds(ended(reason, made=3), 30.0, at(0)) == 0


@pytest.mark.parametrize("reason", ["budget", "max_jobs", "queue_empty", "rate_limited", "busy"])
def test_no_spinning_without_progress(reason: str) -> None:
    """A run that only gave jobs back, or met others' locks, is never followed by another at once."""
    assert pause_seconds(ended(reason, 0.0, notStarted=5), 30.0, at(0)) == 0.5
    assert pause_seconds(ended(reason, None, notStarted=5), 30.0, at(0)) == 30


@given(due=st.none() | st.floats(0, 1e6), idle=waits, fraction=fractions)
def test_pause_ends_when_something_is_due(due: float | None, idle: float, fraction: float) -> None:
    """A pause is never longer than the idle time, nor than until the next attempt; and not much shorter."""
    pause = pause_seconds(ended("queue_empty", due), idle, at(fraction))
    assert 0.5 <= pause <= idle
    if due is not None and due >= 0.5:
        assert pause <= due
    assert pause >= min(idle if due is None else due, idle * 0.9)


@given(failures=st.integers(1, 10_000), idle=waits, fraction=fractions)
def test_failures_are_followed_by_growing_pauses(failures: int, idle: float, fraction: float) -> None:
    """Pauses double up to their cap, and are never near zero."""
    for reason, base, cap in (("queue_lost", 1.0, idle), ("misconfigured", 5.0, max(idle, 300.0))):
        window = min(base * 2.0 ** min(failures - 1, 60), cap)
        pause = failure_pause_seconds(reason, failures, idle, at(fraction))
        assert window / 2 <= pause <= window <= cap
