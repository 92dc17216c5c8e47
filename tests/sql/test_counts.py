"""Counters by minute change no number: all equal what is counted from the tables, whatever happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from math import ceil
from random import Random
from typing import Any

import pytest
from psycopg.rows import DictRow

from tests.sql.test_hygiene_plans import scans
from tests.support.databases import Database
from tests.support.gate_sql import Moment, still_time
from tests.support.queue_sql import Connection, Queue

JOB = """
    insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt", "startTag",
      "numImagesPerExample", status, "errorCode", "errorMessage", "createdAt", "completedAt")
    values (%(user)s, %(user)s, 'https://photos.example.com/a', 'x', 1, 1, %(status)s, %(code)s, 'x',
      %(at)s::timestamptz - make_interval(secs => %(took)s), %(at)s)"""
BATCH = """
    insert into photo_generation_batches (id, "userId") values (%(user)s, %(user)s) on conflict do nothing"""
PHOTO = """
    insert into photo_generation_photos ("jobId", "batchId", "userId", "imageIndex", "storagePath",
      "mimeType", width, height, bytes, model, "generationMs", "createdAt")
    values (%(job)s, %(user)s, %(user)s, 0, 'p', 'image/png', 1, 1, 1, %(model)s, %(took)s, %(at)s)"""
REFUSAL = """
    insert into generation.failed_images ("jobId", "imageIndex", code, message, "createdAt", "batchId")
    values (%(job)s, 1, %(code)s, 'x', %(at)s, %(user)s)"""
JOBS = """
    select status, coalesce("errorCode", 'unknown') as code, "completedAt" as at,
      extract(epoch from "completedAt" - "createdAt")::float8 as took
    from photo_generation_queue where "completedAt" is not null"""
PHOTOS = 'select "createdAt" as at, "generationMs" as took from photo_generation_photos'
REFUSALS = 'select "createdAt" as at, code from generation.failed_images'
OLD = """
    update photo_generation_batches set "completedAt" = generation.clock() - interval '2 days'
    where id = %(user)s"""
MANY = """
    insert into photo_generation_photos ("jobId", "batchId", "userId", "imageIndex", "storagePath",
      "mimeType", width, height, bytes, model, "generationMs", "createdAt")
    select i, 'u', 'u', 0, 'p', 'image/png', 1, 1, 1, 'm', 1000, generation.clock() - make_interval(secs => i)
    from generate_series(1, 20000) as i"""
CHANGES = (
    "delete from photo_generation_photos where id % 7 = {n}",
    'update photo_generation_photos set "createdAt" = "createdAt" - interval \'95 s\' where id % 7 = {n}',
    'delete from generation.failed_images where "jobId" % 7 = {n}',
    "delete from photo_generation_queue where id % 7 = {n}",
    """update photo_generation_queue set "completedAt" = "completedAt" - interval '95 s'
       where id % 7 = {n}""",
    """update photo_generation_queue set status = 'pending', "completedAt" = null, "errorCode" = null
       where status = 'failed' and id % 3 = {n} % 3""",
    "truncate generation.counts",
    "truncate generation.failed_images",
)


@pytest.fixture
def moment(db: Connection) -> Iterator[Moment]:
    """The database's time, which stands still until it is moved."""
    with still_time(db) as found:
        yield found


class Work:
    """What ends in the tables, at times of the test's."""

    def __init__(self, queue: Queue, moment: Moment, random: Random) -> None:
        self.queue, self.moment, self.random, self.number = queue, moment, random, 0

    def end(self, ago: float = 0) -> None:
        """A job, an image or a refusal, so many seconds ago."""
        self.number += 1
        statement = self.random.choice((JOB, JOB, PHOTO, PHOTO, PHOTO, REFUSAL))
        status = self.random.choice(("completed", "completed", "failed", "cancelled"))
        coded = status == "failed" or statement == REFUSAL
        seconds, ms = self.random.uniform(0, 300), self.random.choice((None, 7, 95, 1234, 5678, 98_765))
        values = {
            "job": self.number,
            "user": self.random.choice(("u", "v", "w")),
            "status": status,
            "code": self.random.choice(("safety", "photo_missing")) if coded else None,
            "model": self.random.choice(("m", "n")),
            "took": ms if statement == PHOTO else seconds,
            "at": self.moment.now - timedelta(seconds=ago),
        }
        self.queue.connection.execute(BATCH, values)
        self.queue.connection.execute(statement.encode(), values)

    def act(self) -> None:
        """One of the things that happen."""
        what = self.random.random()
        if what < 0.45:
            for _ in range(self.random.randint(1, 8)):
                self.end()
        elif what < 0.6:
            self.end(ago=self.random.choice((59, 61, 125, 4000, 40_000, 90_000)))
        elif what < 0.7:
            change = self.random.choice(CHANGES).format(n=self.random.randrange(7))
            self.queue.connection.execute(change.encode())
        elif what < 0.75:
            self.queue.call("erase_generation_user", p_user_id=self.random.choice("vw"))
            self.queue.connection.execute("delete from generation.erasures")
        elif what < 0.8:
            self.queue.connection.execute(OLD, {"user": self.random.choice("vw")})
            self.queue.call("prune_generation_history", p_older_than_days=1)
        else:
            self.moment.advance(self.random.choice((1, 20, 61, 61, 200, 200, 3600, -61, -7000)))


def rounded(number: float) -> int:
    """To one percent, as the numbers do."""
    value, step = round(number), 1
    for bound in (10**n * digit for n in range(2, 9) for digit in (1, 2, 5)):
        step = bound // 50 if value >= bound else step
    return (value + step // 2) // step * step


def percentiles(values: list[int], unit: float) -> dict[str, float | None]:
    """By nearest rank."""
    shares = {"p50": 50, "p95": 95, "p99": 99}
    ordered = sorted(values)
    ranks = {name: ceil(len(ordered) * share / 100) for name, share in shares.items()}
    return {name: ordered[rank - 1] / unit if ordered else None for name, rank in ranks.items()}


def window(rows: dict[str, list[DictRow]], since: datetime) -> dict[str, Any]:
    """What ended after a moment."""
    jobs, photos, refusals = ([row for row in rows[name] if row["at"] > since] for name in rows)
    statuses = Counter(row["status"] for row in jobs)
    took = [rounded(row["took"] * 10) for row in jobs if row["status"] == "completed"]
    return {
        "jobs": {status: statuses[status] for status in ("completed", "failed", "cancelled")},
        "images": {"completed": len(photos), "refused": len(refusals)},
        "jobSeconds": percentiles(took, 10),
        "imageMs": percentiles([rounded(row["took"]) for row in photos if row["took"] is not None], 1),
        "failuresByCode": dict(Counter(row["code"] for row in jobs if row["status"] == "failed")),
        "refusalsByCode": dict(Counter(row["code"] for row in refusals)),
    }


def point(rows: dict[str, list[DictRow]], at: datetime, seconds: int) -> dict[str, Any]:
    """What ended within one step of a series."""
    until = at + timedelta(seconds=seconds)
    jobs, photos, refusals = ([row for row in rows[name] if at <= row["at"] < until] for name in rows)
    took = [float(row["took"]) for row in jobs if row["status"] == "completed"]
    longest = pytest.approx(max(took), abs=0.051) if took else None
    timed = [float(row["took"]) for row in photos if row["took"] is not None]
    return {
        "at": at,
        "jobsCompleted": len(took),
        "jobsFailed": sum(row["status"] == "failed" for row in jobs),
        "imagesCompleted": len(photos),
        "imagesRefused": len(refusals),
        "jobSeconds": {"mean": mean(took, 0.11), "max": longest},
        "imageMs": {"mean": mean(timed, 0.51), "max": max(timed, default=None)},
    }


def mean(values: list[float], precision: float) -> Any:
    """The mean as it is told."""
    return pytest.approx(sum(values) / len(values), abs=precision) if values else None


def naive(db: Connection, now: datetime) -> tuple[list[Any], dict[str, list[Any]]]:
    """The windows and the series, counted from every row."""
    texts = {"jobs": JOBS, "photos": PHOTOS, "refusals": REFUSALS}
    rows = {name: db.execute(text.encode()).fetchall() for name, text in texts.items()}
    windows = [window(rows, now - timedelta(seconds=seconds)) for seconds in (300, 3600, 86_400)]
    series = {}
    for name, seconds, count in (("minutes", 60, 60), ("hours", 3600, 24)):
        last = datetime.fromtimestamp(now.timestamp() // seconds * seconds, UTC)
        starts = [last - timedelta(seconds=i * seconds) for i in range(count - 1, -1, -1)]
        series[name] = [point(rows, at, seconds) for at in starts]
    return windows, series


def told(queue: Queue) -> tuple[list[Any], dict[str, list[Any]]]:
    """The windows and the series that the numbers tell."""
    stats = queue.call("generation_queue_stats")
    windows = [{k: v for k, v in w.items() if k not in ("name", "seconds")} for w in stats["windows"]]
    for points in stats["series"].values():
        for each in points:
            each["at"] = datetime.fromisoformat(each["at"])
    return windows, stats["series"]


def counted(queue: Queue) -> set[datetime]:
    """The minutes that are counted."""
    rows = queue.connection.execute("select at from generation.counts where seconds = 60").fetchall()
    return {row["at"] for row in rows}


def marked(connection: Connection) -> int:
    """How many marks there are."""
    return connection.execute("select from generation.changed_minutes").rowcount


def count_all(queue: Queue) -> None:
    """Asks for the numbers until every minute that is over is counted."""
    before = None
    while before != (before := len(counted(queue))) or before == 0:
        queue.call("generation_queue_stats")


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_equal_a_naive_count(queue: Queue, moment: Moment, seed: int) -> None:
    """Whatever ends, comes late, changes, is erased or pruned, and however the clock moves."""
    work = Work(queue, moment, Random(seed))
    for _ in range(20):
        work.end(work.random.uniform(0, 100_000))
    count_all(queue)
    for _ in range(30):
        work.act()
        assert told(queue) == naive(queue.connection, moment.now)
    assert len(counted(queue)) > 100


def test_a_transaction_that_ends_late_is_counted(
    queue: Queue, moment: Moment, another: Callable[[], Queue]
) -> None:
    """An image that was recorded in time, but is committed minutes after, is in the numbers from then on."""
    count_all(queue)
    slow = another()
    slow.connection.execute("begin")
    Work(slow, moment, Random(2)).end()
    for _ in range(5):
        moment.advance(61)
        assert told(queue)[0][2]["images"]["completed"] == 0
    slow.connection.execute("commit")
    moment.advance(61)
    assert told(queue) == naive(queue.connection, moment.now)
    count_all(queue)
    assert told(queue) == naive(queue.connection, moment.now)


def test_nobody_waits_for_a_counter(queue: Queue, moment: Moment, another: Callable[[], Queue]) -> None:
    """While one caller counts, others get the same numbers, and images are recorded."""
    count_all(queue)
    other, work = another(), Work(queue, moment, Random(1))
    for _ in range(10):
        work.end()
    moment.advance(130)
    other.connection.execute("begin")
    other.call("generation_queue_stats")
    work.end()
    work.end(ago=500)
    assert told(queue) == naive(queue.connection, moment.now)
    other.connection.execute("rollback")
    assert told(queue) == naive(queue.connection, moment.now)


def test_what_is_recorded_and_settled_in_time_calls_no_counter(queue: Queue) -> None:
    """Only rows that are late, changed or removed are marked, so images and ends of jobs cost no more."""
    queue.open_gate().enqueue(examples=2, images=2)
    first, second = queue.run().claim()
    queue.connection.execute("set track_functions = 'all'")
    queue.connection.execute("begin")
    queue.refuse(first, 0)
    queue.record(first, 1)
    queue.settle(first, "completed")
    queue.settle(second, "failed")
    called = queue.connection.execute("select funcname from pg_stat_xact_user_functions").fetchall()
    queue.connection.execute("rollback")
    names = {row["funcname"] for row in called}
    assert "settle_generation_jobs" in names
    assert {name for name in names if name.startswith("mark_")} == set()


def test_a_transaction_that_only_reads_gets_the_numbers(queue: Queue, moment: Moment) -> None:
    """A replica, or a GET of the API, cannot count; it is told the same."""
    work = Work(queue, moment, Random(1))
    for _ in range(10):
        work.end(work.random.uniform(0, 5000))
    queue.connection.execute("begin read only")
    found = told(queue)
    queue.connection.execute("rollback")
    assert found == told(queue)


def test_a_change_that_no_number_shows_leaves_no_mark(queue: Queue, moment: Moment) -> None:
    """Otherwise the marks of pruned and erased rows would stay for ever where nobody asks for the numbers."""
    work = Work(queue, moment, Random(1))
    for hours in range(26, 60):
        work.end(ago=hours * 3600 + 61)
    for table in ("photo_generation_photos", "photo_generation_queue", "generation.failed_images"):
        assert queue.connection.execute(f"delete from {table}".encode()).rowcount > 0
    assert marked(queue.connection) == 0


def test_a_change_of_what_is_counted_is_marked_whatever_its_age(queue: Queue, moment: Moment) -> None:
    """The clock can go back to where its minute is shown."""
    work = Work(queue, moment, Random(1))
    for hours in range(20):
        work.end(ago=hours * 3600 + 61)
    count_all(queue)
    moment.advance(40 * 3600)
    queue.connection.execute("delete from photo_generation_photos")
    moment.advance(-40 * 3600)
    assert told(queue) == naive(queue.connection, moment.now)


def test_pruning_forgets_marks_where_nobody_asks_for_the_numbers(queue: Queue, moment: Moment) -> None:
    """Otherwise the marks of late and changed rows would add up until somebody asks."""
    work = Work(queue, moment, Random(1))
    for _ in range(10):
        work.end(ago=500)
    assert marked(queue.connection) > 0
    queue.call("prune_generation_history")
    assert marked(queue.connection) == 0


def test_an_hour_that_was_counted_too_early_is_counted_again(queue: Queue, moment: Moment) -> None:
    """The clock was ahead, and went back to within an hour whose minutes had all been counted."""
    moment.advance(62 * 60)
    count_all(queue)
    moment.advance(-600)
    told(queue)
    Work(queue, moment, Random(2)).end()
    moment.advance(4 * 3600)
    count_all(queue)
    assert told(queue) == naive(queue.connection, moment.now)


def test_any_counter_may_be_deleted(queue: Queue, moment: Moment) -> None:
    """It is counted again, and so is what its hour said."""
    Work(queue, moment, Random(4)).end()
    ended = moment.now
    moment.advance(2 * 3600)
    count_all(queue)
    minutes = "seconds = 60 and at between %s::timestamptz - interval '1 h' and %s"
    queue.connection.execute(f"delete from generation.counts where {minutes}".encode(), [ended, ended])
    count_all(queue)
    assert told(queue) == naive(queue.connection, moment.now)


def test_a_minute_that_was_just_counted_is_counted_again_when_the_clock_goes_back_into_it(
    queue: Queue, moment: Moment
) -> None:
    """What ends then is in time, and marks nothing; the next claim does."""
    moment.advance(74 - moment.now.timestamp() % 60)
    count_all(queue)
    moment.advance(-20)
    queue.connection.execute("select generation.correct_times(1000)")
    Work(queue, moment, Random(3)).end()
    moment.advance(120)
    count_all(queue)
    assert told(queue) == naive(queue.connection, moment.now)


def test_asking_again_within_the_minute_writes_nothing(queue: Queue, moment: Moment) -> None:
    """Many may ask, each every few seconds; a transaction that writes waits for its commit."""
    count_all(queue)
    queue.connection.execute("begin")
    told(queue)
    assigned = queue.one("select pg_current_xact_id_if_assigned() is not null as writes")
    queue.connection.execute("rollback")
    assert not assigned["writes"]


def test_an_installation_restores_the_row_that_a_restore_has_lost(installed: Database) -> None:
    """Without the row of generation.counting nothing would be counted, and marks would stay for ever."""
    installed.connection.execute("delete from generation.counting")
    installed.install()
    installed.connection.execute("insert into generation.changed_minutes values (now())")
    Queue(installed.connection).call("generation_queue_stats")
    assert marked(installed.connection) == 0


def test_counted_minutes_are_not_read_again(queue: Queue, moment: Moment) -> None:
    """Once the day is counted, the numbers read the rows of a few minutes only."""
    queue.connection.execute(MANY.encode())
    count_all(queue)
    queue.connection.execute("begin")
    before = scans(queue.connection)
    assert told(queue)[0][2]["images"]["completed"] == 20_000
    after = scans(queue.connection)
    queue.connection.execute("rollback")
    assert sum(after[name]["entries"] - before[name]["entries"] for name in after) < 1000
