"""What a worker calls for its jobs reads by key or the head of an index, whatever the statistics say."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.stack.postgres import Postgres
from tests.databases import database
from tests.queue_sql import Queue, result_of

# As many jobs ready, ended and waiting for their time; statistics are those of two jobs.
FILL = """
    insert into photo_generation_batches (id, "userId", "jobsTotal", "imagesTotal")
    select '{order}' || i, 'u', 1000, 4000 from generate_series(0, {rows} / 10) as i;
    insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt", "startTag",
      status, "retryAt", "completedAt", claims)
    select '{order}' || i / 10, 'u', 'https://photos.example.com/a', repeat('x', 200), 10 + i,
      k.status, k.retry, k.ended, 0
    from generate_series(1, {rows}) as i, (values ('pending', null::timestamptz, null::timestamptz),
      ('completed', null, now()), ('rate_limited', now() + interval '1 day', null)
    ) as k (status, retry, ended);
    insert into photo_generation_photos ("jobId", "batchId", "userId", "imageIndex", "storagePath",
      "mimeType", width, height, bytes, model, "generationMs")
    select q.id, q."batchId", 'u', 0, q.id::text, 'image/png', 1, 1, 1, 'model', 1
    from photo_generation_queue as q where q.status = 'completed' and q."batchId" like '{order}%'"""
ROWS = 10_000
READ = """
    select c.relname as name, c.relkind = 'r' as whole, pg_stat_get_xact_numscans(c.oid) as scans,
      pg_stat_get_xact_tuples_returned(c.oid) as entries
    from pg_class as c
    where c.relname ~ '^(photo_generation_|runs|failed_images)' and c.relkind in ('r', 'i')"""
CLAIM = """
    explain (analyze, buffers, format json)
    select claim_generation_jobs(gen_random_uuid(), 'w', gen_random_uuid(), 10, 240, 'model')"""
QUEUE = "photo_generation_queue"
CLAIM_INDEXES = {f"{QUEUE}_{name}" for name in ("ready", "held", "leases", "waiting", "pkey")}


@pytest.fixture(scope="module", params=[16, 18])
def server(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A PostgreSQL that plans an SQL function at each call, and one that keeps its plan."""
    with (
        tempfile.TemporaryDirectory(prefix="plans-") as folder,
        Postgres(Path(folder), request.param, durable=False) as postgres,
    ):
        yield postgres


@pytest.fixture
def grown(server: Postgres) -> Iterator[Queue]:
    """A session that planned everything while the queue was all but empty, and has many jobs now."""
    with database(server) as scratch:
        scratch.install()
        queue = Queue(scratch.connection).open_gate()
        live_through(queue)
        queue.connection.execute("vacuum analyze")
        for _ in range(7):  # PostgreSQL keeps a plan from the sixth time on, if not before
            live_through(queue)
        queue.connection.execute(FILL.format(order="many-", rows=ROWS).encode())
        yield queue


def live_through(queue: Queue) -> None:
    """Two jobs from their orders to their ends."""
    queue.enqueue()
    queue.enqueue()
    run = queue.run()
    made, failed = run.claim()
    queue.record(made, 0)
    queue.refuse(failed, 0)
    queue.settle_all([result_of(made, "completed"), result_of(failed, "failed")])
    run.finish()


class Reads:
    """What a block reads in its transaction, which is rolled back."""

    def __init__(self, queue: Queue) -> None:
        self._db = queue.connection
        self.entries: dict[str, int] = {}
        self.whole: set[str] = set()

    def _counts(self) -> dict[str, Any]:
        return {row["name"]: row for row in self._db.execute(READ).fetchall()}

    def __enter__(self) -> Reads:
        self._db.execute("begin")
        self._before = self._counts()
        return self

    def __exit__(self, *_: object) -> None:
        for name, row in self._counts().items():
            before = self._before[name]
            if row["scans"] > before["scans"]:
                if row["whole"]:
                    self.whole.add(name)
                else:
                    self.entries[name] = row["entries"] - before["entries"]
        self._db.execute("rollback")

    def of(self, table: str) -> set[str]:
        """The table's indexes that were read."""
        return {name for name in self.entries if name.startswith(table)}


def blocks(queue: Queue) -> int:
    """Pages that a claim of ten jobs touches, all it calls included."""
    queue.connection.execute("begin")
    plan = queue.one(CLAIM)["QUERY PLAN"][0]["Plan"]
    queue.connection.execute("rollback")
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_a_claim(grown: Queue) -> None:
    """A claim of ten jobs reads the heads of its indexes: a few dozen entries beside 30 000 jobs."""
    with Reads(grown) as reads:
        assert len(grown.run().claim(10)) == 10
    assert reads.whole == set()
    assert reads.of(QUEUE) == CLAIM_INDEXES
    assert reads.entries[f"{QUEUE}_ready"] <= 20
    assert sum(reads.entries.values()) < 150


def test_a_record_and_a_settle(grown: Queue) -> None:
    """Photos are recorded and jobs settled by their ids, and their batches counted by theirs."""
    jobs = grown.run().claim(10)
    with Reads(grown) as reads:
        for job in jobs:
            assert grown.record(job, 0)["result"] == "recorded"
        results = grown.settle_all([result_of(job, "failed") for job in jobs])
    assert [result["status"] for result in results] == ["failed"] * 10
    assert reads.whole == set()
    assert reads.of(QUEUE) == {f"{QUEUE}_pkey"}
    assert reads.of("photo_generation_batches") == {"photo_generation_batches_pkey"}
    assert sum(reads.entries.values()) < 300


def test_a_finish(grown: Queue) -> None:
    """A run that ends finds what it holds among the jobs that are held."""
    run = grown.run()
    run.claim(10)
    with Reads(grown) as reads:
        assert run.finish() == 10
    assert reads.whole == set()
    assert reads.of(QUEUE) <= {f"{QUEUE}_{name}" for name in ("held", "leases", "pkey")}
    assert sum(reads.entries.values()) < 200


def test_the_pages_of_a_claim(grown: Queue) -> None:
    """A claim touches as many pages with three times the jobs, and the guard sees a missing index."""
    few = blocks(grown)
    grown.connection.execute(FILL.format(order="more-", rows=2 * ROWS).encode())
    many = blocks(grown)
    assert few < 600
    assert many < few * 1.2 + 20
    grown.connection.execute("drop index photo_generation_queue_ready; discard plans")
    assert blocks(grown) > 3 * many
