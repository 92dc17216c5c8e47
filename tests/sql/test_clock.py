"""A clock that was ahead and is put right: everything waits as long as it was to, and no longer."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.gate_sql import MODEL, GateRun, Moment, allow, limited, refusal, shown, still_time
from tests.support.queue_sql import Connection, Queue

AHEAD = 15 * 3600.0
TIMES = """
    select n.nspname || '.' || c.relname as relation, a.attname as name
    from pg_attribute as a
    join pg_class as c on c.oid = a.attrelid join pg_namespace as n on n.oid = c.relnamespace
    where c.relkind = 'r' and a.atttypid in ('timestamptz'::regtype, 'timestamptz[]'::regtype)
      and a.attnum > 0 and not a.attisdropped
      and (n.nspname = 'generation' or n.nspname = 'public' and c.relname ~ '^photo_generation_')"""


@pytest.fixture
def moment(db: Connection) -> Iterator[Moment]:
    """The database's time, which a test moves."""
    with still_time(db) as found:
        yield found


def put_right(moment: Moment) -> None:
    """The clock goes back by what it was ahead, and ten seconds on."""
    moment.advance(10 - AHEAD)


def claim(queue: Queue) -> Any:
    """The answer of a new run's claim."""
    return queue.run().answer(10)


def waits(queue: Queue) -> float:
    """Seconds until the next thing can be claimed, when nothing can be now."""
    reason, seconds = refusal(claim(queue))
    assert reason in ("queue_empty", "rate_limited") and seconds is not None
    return seconds


def warned(queue: Queue) -> set[str]:
    """The columns that the numbers warn of."""
    return {each["subject"] for each in queue.call("generation_queue_stats")["warnings"]}


def test_every_time_has_a_bound(queue: Queue) -> None:
    """For every column with a time it is defined how far ahead it may be, or that it is in the past."""
    bounds = queue.connection.execute("select * from generation.time_bounds()").fetchall()
    known = {(row["relation"], row["name"]): row for row in bounds}
    found = {(row["relation"], row["name"]) for row in queue.connection.execute(TIMES).fetchall()}
    assert found == known.keys() - {("generation.worker_calls", "calledAt")}  # made by schedule/call.sql
    for (relation, _), row in known.items():
        assert row["beginning"] is None or known[relation, row["beginning"]]["most"] == timedelta(0)


def test_a_retry_waits_as_long_as_it_was_to(queue: Queue, moment: Moment) -> None:
    """A retry of ten minutes set by a wrong clock is due ten minutes after a run has seen it."""
    moment.advance(AHEAD)
    queue.open_gate()
    job = queue.claimed()
    queue.settle(job, "retry", retryInSeconds=600)
    put_right(moment)
    assert warned(queue) >= {"retryAt"}
    assert waits(queue) == 600
    assert warned(queue) == set()
    moment.advance(600)
    assert [each["id"] for each in claim(queue)["jobs"]] == [job["id"]]


def test_a_daily_quota_waits_no_longer_than_a_day(queue: Queue, moment: Moment) -> None:
    """A job that waits for midnight in California, and the gate with it, are open a day later at most."""
    moment.advance(AHEAD)
    queue.open_gate()
    job = queue.claimed()
    limited(queue, "day")
    queue.settle(job, "rate_limited", untilDailyReset=True)
    put_right(moment)
    claim(queue)
    moment.advance(25 * 3600)
    assert len(claim(queue)["jobs"]) == 1


def test_storage_is_tried_again_as_soon_as_it_was_to(queue: Queue, moment: Moment) -> None:
    """A probe that a wrong clock put off for two minutes is due two minutes after the claim."""
    moment.advance(AHEAD)
    queue.open_gate()
    facts = {"bytes": 1, "mimeType": "image/png", "problem": "quota exceeded"}
    refused = queue.call("report_storage", p_kept=False, p_facts=facts)["storageRefused"]
    queue.call("report_storage", p_kept=True, p_facts=refused)
    queue.call("report_storage", p_kept=False, p_facts=facts)
    put_right(moment)
    queue.enqueue()
    told = claim(queue)["storageRefused"]
    assert datetime.fromisoformat(told["at"]) == moment.now
    assert datetime.fromisoformat(told["waitUntil"]) == moment.now + timedelta(minutes=2)
    assert queue.call("report_storage", p_kept=True, p_facts=told)["storageRefused"] is None


def test_a_lease_ends_after_its_own_time(queue: Queue, moment: Moment) -> None:
    """A dead worker's job is rescued within 290 s, and its lock is old enough for the runbook's statement."""
    moment.advance(AHEAD)
    queue.open_gate()
    job = queue.claimed()
    put_right(moment)
    assert warned(queue) >= {"leaseExpiresAt", "endsBy"}
    assert waits(queue) <= 290
    moment.advance(301)
    assert queue.call("release_stale_generation_jobs")["released"] == 1
    assert [each["id"] for each in claim(queue)["jobs"]] == [job["id"]]


def test_a_dead_run_frees_its_place_after_its_own_time(queue: Queue, moment: Moment) -> None:
    """Runs of a wrong clock count among the runs at once for 270 s, and stay in their order."""
    moment.advance(AHEAD)
    queue.open_gate()
    queue.call("set_generation_limits", p_limits={"maxRuns": 1})
    first = GateRun(queue, seconds=200).id
    moment.advance(5)
    queue.connection.execute(
        'update generation.runs set "finishedAt" = generation.clock() where id = %s', [first]
    )
    GateRun(queue, seconds=270)
    put_right(moment)
    queue.enqueue()
    reason, seconds = refusal(claim(queue))
    assert reason == "too_many_runs" and seconds is not None and seconds <= 270
    rows = queue.connection.execute(
        'select id, "finishedAt" from generation.runs order by "startedAt"'
    ).fetchall()
    assert rows[0]["id"] == first and rows[1]["finishedAt"] is None
    moment.advance(270)
    assert len(claim(queue)["jobs"]) == 1


@pytest.mark.parametrize("rate", [1, 10, 600])
def test_a_gate_opens_within_its_window_and_pace(queue: Queue, moment: Moment, rate: int) -> None:
    """Starts given out by a wrong clock close the gate for a window and four intervals at most."""
    allow(queue, rate)
    moment.advance(AHEAD)
    GateRun(queue).starts()
    put_right(moment)
    assert warned(queue) == {"blockedUntil", "endsBy"}
    queue.enqueue()
    claim(queue)
    moment.advance(60 + 4 * 61 / rate)
    assert GateRun(queue).starts(1)


def test_a_block_lasts_as_long_as_gemini_asked(queue: Queue, moment: Moment) -> None:
    """A block of 30 s lasts 30 s, also for claims; and what the 429 taught expires in time."""
    moment.advance(AHEAD)
    allow(queue, 10)
    limited(queue, "unknown", retryAfterSeconds=30)
    put_right(moment)
    queue.enqueue(images=4)
    assert shown(queue)["blockedForSeconds"] == 30
    claim(queue)
    moment.advance(31)
    assert shown(queue)["blockedForSeconds"] == 0
    moment.advance(180)
    assert shown(queue)["rate"] == 10


def test_what_a_person_has_set_is_left_and_told(queue: Queue, moment: Moment) -> None:
    """A retryAt a week ahead, set by hand, stays; the numbers say that no worker could have set it."""
    queue.open_gate()
    queue.enqueue()
    queue.connection.execute(
        "update photo_generation_queue set \"retryAt\" = generation.clock() + interval '7 days'"
    )
    assert waits(queue) == 7 * 86400
    assert warned(queue) == {"retryAt"}


def test_a_sweep_and_an_erasure_do_not_wait(queue: Queue, moment: Moment) -> None:
    """Folders of a wrong clock are looked into within minutes, and an erased user may order again."""
    moment.advance(AHEAD)
    queue.open_gate()
    job = queue.claimed(user_id="swept")
    queue.settle(job, "failed")
    queue.call("generation_jobs_to_sweep")
    queue.call("erase_generation_user", p_user_id="erased")
    put_right(moment)
    assert "requestedAt" in warned(queue)
    queue.call("generation_jobs_to_sweep")
    queue.call("generation_erasures_to_sweep")
    moment.advance(601)
    assert [each["id"] for each in queue.call("generation_jobs_to_sweep")["jobs"]] == [job["id"]]
    done: list[bool] = []
    for _ in range(3):
        (folder,) = queue.call("generation_erasures_to_sweep")["folders"] if not any(done) else ("erased",)
        done.append(queue.call("settle_generation_erasure", p_user_folder=folder, p_empty=True)["done"])
        moment.advance(1)
    assert done[-1]
    queue.enqueue(user_id="erased")


def test_a_retry_does_not_wait_for_a_sweep_of_a_wrong_clock(queue: Queue, moment: Moment) -> None:
    """A failed job that is taken up again waits three minutes for its sweep at most."""
    moment.advance(AHEAD)
    queue.open_gate()
    job = queue.claimed()
    queue.settle(job, "failed")
    moment.advance(601)
    queue.call("generation_jobs_to_sweep")
    put_right(moment)
    queue.call("retry_failed_generation_jobs")
    claim(queue)
    moment.advance(180)
    assert [each["id"] for each in claim(queue)["jobs"]] == [job["id"]]


def test_a_right_clock_moves_nothing(queue: Queue, moment: Moment) -> None:
    """Without a jump every wait stays as it was set, to the microsecond."""
    queue.open_gate()
    first, second = queue.claimed(), queue.claimed()
    queue.settle(first, "retry", retryInSeconds=86_400)
    limited(queue, "day")
    before = [queue.job(job["id"]) for job in (first, second)], shown(queue, MODEL)["blockedUntil"]
    claim(queue)
    assert ([queue.job(job["id"]) for job in (first, second)], shown(queue, MODEL)["blockedUntil"]) == before
    assert warned(queue) == set()
