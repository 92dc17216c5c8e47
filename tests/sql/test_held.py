"""What holds the queue: it is held if every gate in use is closed, whatever other gates are."""

from __future__ import annotations

import pytest

from tests.support.queue_sql import Queue

DAY_QUOTA = {"period": "day", "limit": 250, "retryAfterSeconds": None}
STARTED = """
    insert into generation.gates (model, "startedToday", today)
    values (%s, 12, (generation.moment() at time zone 'America/Los_Angeles')::date)
    on conflict (model) do update set "startedToday" = 12, today = excluded.today"""


def held(queue: Queue) -> str | None:
    """What holds the queue."""
    found: str | None = queue.call("generation_queue_stats")["heldBy"]
    return found


def test_nothing_holds_an_open_gate(queue: Queue) -> None:
    """Neither a missing gate nor an open one holds the queue."""
    assert held(queue) is None
    queue.open_gate()
    assert held(queue) is None


def test_a_gate_closed_for_the_day_holds_the_jobs(queue: Queue) -> None:
    """Until the block ends."""
    queue.connection.execute(STARTED, ["model"])
    queue.call("report_rate_limit", p_model="model", p_epoch=None, p_facts=DAY_QUOTA)
    assert held(queue) == "rate_limited"
    queue.call("resume_generation")
    assert held(queue) is None


def test_a_pause_and_caps(queue: Queue) -> None:
    """A pause holds whatever the gates are; a cap holds with or without earlier starts."""
    queue.call("pause_generation", p_reason="lunch")
    assert held(queue) == "paused"
    queue.call("resume_generation")
    queue.open_gate()
    queue.call("set_generation_limits", p_limits={"imagesPerDay": 0})
    assert held(queue) == "daily_cap"
    queue.connection.execute(STARTED, ["model"])
    assert held(queue) == "daily_cap"


@pytest.mark.parametrize(("started", "expected"), [("model", "rate_limited"), ("other", None)])
def test_only_gates_in_use_count(queue: Queue, started: str, expected: str | None) -> None:
    """An open gate without starts today lets no job through, and a closed one holds none."""
    queue.open_gate()
    queue.connection.execute(STARTED, ["other"])
    queue.connection.execute('update generation.gates set "startedToday" = 0')
    queue.connection.execute(STARTED, [started])
    queue.call("report_rate_limit", p_model="model", p_epoch=None, p_facts=DAY_QUOTA)
    assert held(queue) == expected
