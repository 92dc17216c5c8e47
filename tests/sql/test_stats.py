"""The queue's numbers: exact counts, percentiles and series of constructed rows, in any time zone."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tests.sql.test_hygiene_plans import scans
from tests.support.queue_sql import NOON, Clock, Queue
from worker.supabase.queue import SCHEMA_VERSION

NOTHING = {"p50": None, "p95": None, "p99": None}
JOB = """
    insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt",
      "startTag", "numImagesPerExample", status, "errorCode", "errorMessage", "retryAt", "createdAt",
      "completedAt", claims)
    values ('b', 'u', 'https://photos.example.com/a', 'x', 1, %(images)s, %(status)s, %(code)s, 'x',
      %(retry)s, %(created)s, %(completed)s, %(claims)s) returning id"""
PHOTO = """
    insert into photo_generation_photos ("jobId", "batchId", "userId", "imageIndex", "storagePath",
      "mimeType", width, height, bytes, model, "generationMs", "createdAt")
    values (%s, 'b', 'u', %s, 'p', 'image/png', 1, 1, 1, %s, %s, %s)"""
BATCH = """
    insert into photo_generation_batches (id, "userId", "jobsTotal", "imagesTotal")
    values ('b', 'u', 1000, 4000)"""
HISTORY = """
    insert into photo_generation_batches (id, "userId") values ('old', 'u');
    insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt",
      "startTag", "numImagesPerExample", status, "completedAt", "createdAt")
    select 'old', 'u', 'https://photos.example.com/a', 'x', 1, 1, 'completed', ended.at, ended.at
    from (select now() - make_interval(mins => i * 5) as at from generate_series(1, 20000) as i) as ended;
    insert into photo_generation_photos ("jobId", "batchId", "userId", "imageIndex", "storagePath",
      "mimeType", width, height, bytes, model, "generationMs", "createdAt")
    select q.id, 'old', 'u', 0, 'p', 'image/png', 1, 1, 1, 'model-' || q.id % 3, 1000, q."createdAt"
    from photo_generation_queue as q;
    analyze photo_generation_queue, photo_generation_photos"""


class Rows:
    """Rows as they would be if it had happened so many seconds before noon."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        queue.connection.execute(BATCH)

    def job(self, status: str, ordered: float, ended: float | None = None, **fields: Any) -> int:
        """A job; `retry` is the seconds until its retryAt."""
        values = {"images": 4, "code": None, "claims": 0, **fields, "status": status}
        retry = None if "retry" not in fields else NOON + timedelta(seconds=fields["retry"])
        completed = None if ended is None else NOON - timedelta(seconds=ended)
        values |= {"created": NOON - timedelta(seconds=ordered), "completed": completed, "retry": retry}
        return int(self.queue.one(JOB, values)["id"])

    def photo(
        self, ago: float, took: int | None, model: str = "m", job: int = 10_000, index: int = 0
    ) -> None:
        """An image that was made."""
        moment = NOON - timedelta(seconds=ago)
        self.queue.connection.execute(PHOTO, [job, index, model, took, moment])
        self.queue.connection.execute('update photo_generation_batches set "imagesDone" = "imagesDone" + 1')

    def refusal(self, ago: float, code: str, job: int = 10_000, index: int = 0) -> None:
        """An image that was given up."""
        moment = NOON - timedelta(seconds=ago)
        self.queue.connection.execute(
            "insert into generation.failed_images values (%s, %s, %s, 'x', %s, 'b')",
            [job, index, code, moment],
        )


@pytest.fixture
def rows(queue: Queue, clock: Clock) -> Rows:
    """Nothing has happened yet, and it is noon."""
    return Rows(queue)


def stats(queue: Queue) -> Any:
    """The numbers."""
    return queue.call("generation_queue_stats")


def test_an_empty_queue_has_zero_counts_and_null_measures(queue: Queue, clock: Clock) -> None:
    """A count of nothing is 0; a time of nothing is null."""
    told = stats(queue)
    assert datetime.fromisoformat(told["at"]) == NOON and told["schemaVersion"] == SCHEMA_VERSION
    assert told["due"] == {"jobs": 0, "images": 0, "oldestSeconds": None} and told["nextRetryAt"] is None
    for window in told["windows"]:
        assert window["jobs"] == {"completed": 0, "failed": 0, "cancelled": 0}
        assert window["images"] == {"completed": 0, "refused": 0}
        assert window["jobSeconds"] == window["imageMs"] == NOTHING
        assert window["failuresByCode"] == window["refusalsByCode"] == {}
    assert [len(told["series"][name]) for name in ("minutes", "hours")] == [60, 24]
    runs = {"active": 0, "lastHour": 0, "diedLastHour": 0, "secondsSinceLast": None, "lastFinished": None}
    assert told["runs"] == runs and told["lastRun"] is None and told["heldBy"] is None


def test_a_window_counts_what_ended_in_it_without_its_beginning(queue: Queue, rows: Rows) -> None:
    """Percentiles are by nearest rank."""
    for took in range(1, 101):
        rows.job("completed", took + 10, 10)
    rows.job("completed", 1300, 300)
    rows.job("completed", 5600, 3600)
    rows.job("completed", 90_000, 86_400)
    for ago, code in ((20, "photo_missing"), (20, "photo_missing"), (400, "refused"), (4000, None)):
        rows.job("failed", 5000, ago, code=code)
    rows.job("cancelled", 5000, 30)
    five, hour, day = stats(queue)["windows"]
    assert [w["name"] for w in (five, hour, day)] == ["5m", "1h", "24h"]
    assert five["jobs"] == {"completed": 100, "failed": 2, "cancelled": 1}
    assert hour["jobs"] == {"completed": 101, "failed": 3, "cancelled": 1}
    assert day["jobs"] == {"completed": 102, "failed": 4, "cancelled": 1}
    assert five["jobSeconds"] == {"p50": 50, "p95": 95, "p99": 99}
    assert hour["jobSeconds"] == {"p50": 51, "p95": 96, "p99": 100}
    assert day["jobSeconds"] == {"p50": 51, "p95": 97, "p99": 1000}
    assert five["failuresByCode"] == {"photo_missing": 2}
    assert day["failuresByCode"] == {"photo_missing": 2, "refused": 1, "unknown": 1}
    assert stats(queue)["lastDay"] == day["jobs"] | {"failuresByCode": day["failuresByCode"]}


def test_images_without_a_time_count_but_are_in_no_percentile(queue: Queue, rows: Rows) -> None:
    """Images of all models are counted."""
    for index, (ago, took, model) in enumerate(
        [(10, 4000, "a"), (10, 4000, "b"), (20, 9000, "c"), (30, None, "a"), (300, 1, "b"), (86_400, 2, "a")]
    ):
        rows.photo(ago, took, model, index=index)
    for index, (ago, code) in enumerate([(10, "safety"), (3600, "safety"), (86_400, "old")]):
        rows.refusal(ago, code, index=index)
    five, hour, day = stats(queue)["windows"]
    assert [w["images"] for w in (five, hour, day)] == [
        {"completed": 4, "refused": 1},
        {"completed": 5, "refused": 1},
        {"completed": 5, "refused": 2},
    ]
    assert five["imageMs"] == {"p50": 4000, "p95": 9000, "p99": 9000}
    assert day["imageMs"] == {"p50": 4000, "p95": 9000, "p99": 9000}
    assert day["refusalsByCode"] == {"safety": 2}


def test_depth_counts_due_jobs_and_the_images_they_lack(queue: Queue, rows: Rows) -> None:
    """A job is due if it is ready or its time has come."""
    for ordered in (60, 60.001, 300, 90_000):
        rows.job("pending", ordered)
    part = rows.job("pending", 5, retry=0, claims=1)
    rows.photo(1, 1000, job=part, index=0)
    rows.refusal(1, "safety", job=part, index=3)
    rows.job("rate_limited", 7000, retry=-1)
    rows.job("rate_limited", 8000, retry=90)
    rows.job("pending", 9, retry=30)
    told = stats(queue)
    assert told["due"] == {"jobs": 6, "images": 4 * 5 + 2, "oldestSeconds": 90_000}
    assert datetime.fromisoformat(told["nextRetryAt"]) == NOON + timedelta(seconds=30)
    assert told["ages"]["upToSeconds"] == [60, 300, 1800, 3600, 21600, 86400, None]
    assert told["ages"]["pending"] == [3, 2, 0, 0, 0, 0, 1]
    assert told["ages"]["rateLimited"] == [0, 0, 0, 0, 2, 0, 0]
    assert told["ages"]["processing"] == [0] * 7
    assert (told["ready"], told["waiting"], told["rateLimited"]) == (4, 2, 2)


def test_each_minute_and_hour_counts_what_ended_in_it(queue: Queue, rows: Rows, clock: Clock) -> None:
    """The last one is still in progress; older ones are left out."""
    clock.advance(90)
    rows.job("completed", 100, 0)
    rows.job("failed", 100, -60)
    rows.photo(1, 1000, index=1)
    rows.photo(3601, 1000, index=2)
    rows.refusal(86_300, "safety")
    told = stats(queue)["series"]
    for point in told["minutes"] + told["hours"]:
        point.pop("jobSeconds"), point.pop("imageMs")
    minutes = {datetime.fromisoformat(point.pop("at")): point for point in told["minutes"]}
    assert list(minutes) == [NOON + timedelta(minutes=n) for n in range(-58, 2)]
    busy = {at: point for at, point in minutes.items() if any(point.values())}
    none = dict.fromkeys(("jobsCompleted", "jobsFailed", "imagesCompleted", "imagesRefused"), 0)
    assert busy == {
        NOON: none | {"jobsCompleted": 1},
        NOON + timedelta(minutes=1): none | {"jobsFailed": 1},
        NOON - timedelta(minutes=1): none | {"imagesCompleted": 1},
    }
    assert [point["imagesCompleted"] for point in told["hours"][-3:]] == [1, 1, 0]
    assert told["hours"][-1] | none == none | {"at": told["hours"][-1]["at"]}
    assert (told["hours"][-1]["jobsCompleted"], told["hours"][-1]["jobsFailed"]) == (1, 1)
    assert sum(point["imagesRefused"] for point in told["hours"]) == 0, "23 full hours and the last one"


def test_series_of_times(queue: Queue, rows: Rows) -> None:
    """Each minute and hour has the mean and the maximum of completed jobs, and of timed images."""
    for took, ago in ((10, 0), (21, 0), (30, 60)):
        rows.job("completed", took + ago, ago)
    rows.job("failed", 5000, 0)
    rows.photo(0, 1000, index=0)
    rows.photo(0, 2001, index=1)
    rows.photo(0, None, index=2)
    rows.photo(60, None, index=3)
    told = stats(queue)["series"]
    nothing = {"mean": None, "max": None}
    before, last = told["minutes"][-2:]
    assert (last["jobSeconds"], last["imageMs"]) == ({"mean": 15.5, "max": 21}, {"mean": 1501, "max": 2001})
    assert (before["jobSeconds"], before["imageMs"]) == ({"mean": 30, "max": 30}, nothing)
    assert told["minutes"][0]["jobSeconds"] == told["minutes"][0]["imageMs"] == nothing
    assert told["hours"][-1]["jobSeconds"] == {"mean": 15.5, "max": 21}
    assert told["hours"][-2]["jobSeconds"] == {"mean": 30, "max": 30}


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Asia/Kathmandu"])
def test_the_numbers_do_not_depend_on_the_sessions_time_zone(queue: Queue, clock: Clock, zone: str) -> None:
    """The numbers stay the same even in a time zone that leaves daylight saving time on that day."""
    clock.advance((datetime(2026, 11, 1, 12, tzinfo=UTC) - NOON).total_seconds())
    queue.complete(queue.claimed())
    queue.connection.execute("set timezone = 'UTC'")
    expected = stats(queue)
    queue.connection.execute(f"set timezone = '{zone}'".encode())
    assert stats(queue) == expected
    hours = [datetime.fromisoformat(point["at"]) for point in expected["series"]["hours"]]
    assert {after - before for before, after in pairwise(hours)} == {timedelta(hours=1)}
    assert all(hour.utcoffset() == timedelta(0) for hour in hours)


def test_a_run_is_active_finished_or_dead(queue: Queue, clock: Clock) -> None:
    """A run is dead once its deadline has passed without an end."""
    queue.enqueue(examples=2)
    first, second = queue.run(), queue.run()
    first.claim(1)
    clock.advance(10)
    second.claim(1)
    first.finish(summary={"stopReason": "budget"})
    told = stats(queue)["runs"]
    assert (told["active"], told["lastHour"], told["diedLastHour"], told["secondsSinceLast"]) == (1, 2, 0, 0)
    assert (told["lastFinished"]["id"], told["lastFinished"]["stopReason"]) == (str(first.id), "budget")
    assert told["lastFinished"]["problem"] is None
    clock.advance(300)
    told = stats(queue)["runs"]
    assert (told["active"], told["diedLastHour"], told["secondsSinceLast"]) == (0, 1, 300)


def test_a_closed_gate_says_why_until_when_and_what_today_has_cost(queue: Queue, clock: Clock) -> None:
    """An operator sees all three in the stats."""
    queue.claimed()
    queue.call("report_rate_limit", p_model="model", p_epoch=None,
        p_facts={"period": "minute", "retryAfterSeconds": 30, "limit": 10})  # fmt: skip

    def gate() -> Any:
        (found,) = [g for g in stats(queue)["gate"]["gates"] if g["model"] == "model"]
        return found

    blocked = gate()
    assert (blocked["closedBy"], blocked["learnedFrom"], blocked["rate"]) == ("rate_limited", "stated", 10)
    assert blocked["blockedUntil"] and blocked["blockedForSeconds"] > 0 and blocked["probing"] is False
    queue.call("pause_generation", p_reason="lunch")
    assert gate()["closedBy"] == "paused"
    queue.call("resume_generation")
    queue.call("set_generation_limits", p_limits={"imagesPerDay": 0})
    assert (gate()["closedBy"], gate()["blockedUntil"]) == ("daily_cap", None)


def test_no_table_is_read_whole(queue: Queue) -> None:
    """With a long history only the last day of jobs and photos is read, through the indexes on time."""
    queue.connection.execute(HISTORY.encode())
    queue.connection.execute("begin")
    before = scans(queue.connection)
    assert stats(queue)["windows"][2]["jobs"]["completed"] == 287
    after = scans(queue.connection)
    queue.connection.execute("rollback")
    tables = ("photo_generation_queue", "photo_generation_photos")
    assert [name for name in tables if after[name]["scans"] > before[name]["scans"]] == []
    assert sum(after[name]["entries"] - before[name]["entries"] for name in after) < 2000
