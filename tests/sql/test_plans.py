"""Orders and their processing read by key or at the head of an index, whatever the statistics are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from local.stack.postgres import Postgres
from tests.support.databases import database
from tests.support.installation import connect, data_folder
from tests.support.queue_sql import Queue, order, result_of

# As many jobs ready, ended and waiting for their time, and as many users, runs and refused images;
# statistics are those of two jobs.
FILL = """
    insert into photo_generation_batches (id, "userId", "jobsTotal", "imagesTotal")
    select '{order}' || i, 'u', 1000, 4000 from generate_series(0, {rows}) as i;
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
    from photo_generation_queue as q where q.status = 'completed' and q."batchId" like '{order}%';
    insert into generation.flows ("userId", priority, "lastTag", "orderedOn", "requestsOn", "signedIn")
    select '{order}' || i, 0, 1, d.today, d.today, true
    from generate_series(1, {rows}) as i, generation.quota_day(now()) as d (today);
    insert into generation.runs (id, "workerId", "startedAt", "endsBy", "finishedAt")
    select gen_random_uuid(), 'w', t.at, t.at, t.at
    from generate_series(1, {rows}) as i, lateral (select now() - make_interval(mins => i) as at) as t;
    insert into generation.failed_images ("batchId", "jobId", "imageIndex", code, message)
    select q."batchId", q.id, 1, 'safety', 'No.'
    from photo_generation_queue as q where q.status = 'completed' and q."batchId" like '{order}%'"""
ROWS = 10_000
# As an app does that writes the table itself.
INSERTED = """
    insert into photo_generation_queue ("userId", "exampleImageUrl", "basePrompt", "numImagesPerExample")
    values ('u', 'https://photos.example.com/a', 'x', 1) returning "batchId" """
READ = """
    select c.relname as name, c.relkind = 'r' as whole, pg_stat_get_xact_numscans(c.oid) as scans,
      pg_stat_get_xact_tuples_returned(c.oid) as entries
    from pg_class as c
    where c.relname ~ '^(photo_generation_|runs|failed_images|flows)' and c.relkind in ('r', 'i')"""
CLAIM = """
    explain (analyze, buffers, format json)
    select claim_generation_jobs(gen_random_uuid(), 'w', gen_random_uuid(), 10, 240, 'model')"""
QUEUE = "photo_generation_queue"
CLAIM_INDEXES = {
    f"{QUEUE}_{name}" for name in ("ready", "held", "leases", "waiting", "waiting_since", "cancelled", "pkey")
}


@pytest.fixture(scope="module", params=[pytest.param(16, marks=pytest.mark.slow), 18])
def server(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A PostgreSQL that plans an SQL function at each call, and one that keeps its plan."""
    with data_folder() as folder, Postgres(folder, request.param, durable=False) as postgres:
        yield postgres


@pytest.fixture(scope="module")
def sessions(server: Postgres) -> Iterator[dict[str, Queue]]:
    """Three sessions that planned all they called in a queue of a few jobs; it has many now."""
    with database(server) as scratch, connect(scratch.url) as second, connect(scratch.url) as third:
        scratch.install()
        worker, operator, app = Queue(scratch.connection).open_gate(), Queue(second), Queue(third)
        worker.call("set_generation_limits", p_limits={"maxRuns": 100})
        worker.call("add_generation_photo_host", p_host="photos.example.com")
        live_through(worker, operator, app)
        worker.connection.execute("vacuum analyze")
        for _ in range(7):  # PostgreSQL keeps a plan from the sixth time on, if not before
            live_through(worker, operator, app)
        worker.connection.execute(FILL.format(order="many-", rows=ROWS).encode())
        yield {"worker": worker, "operator": operator, "app": app}


@pytest.fixture(params=["worker", "operator", "app"])
def grown(request: pytest.FixtureRequest, sessions: dict[str, Queue]) -> Queue:
    """Each of them, for connections are shared by whoever calls."""
    return sessions[request.param]


def live_through(worker: Queue, operator: Queue, app: Queue) -> None:
    """Jobs from their orders to their ends, and what operators do between."""
    app.enqueue()
    batch_id = operator.one(INSERTED)["batchId"]
    operator.call("peek_generation_jobs")
    run = worker.run()
    made, failed = run.claim()
    worker.record(made, 0)
    worker.settle_all([result_of(made, "completed"), result_of(failed, "failed")])
    operator.call("retry_failed_generation_jobs")
    (again,) = run.claim()
    worker.settle(again, "retry")
    (again,) = run.claim()
    worker.refuse(again, 0)
    worker.settle(again, "failed")
    operator.call("cancel_generation_batch", p_batch_id=operator.one(INSERTED)["batchId"])
    operator.call("get_generation_batch", p_batch_id=batch_id)
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
    """Pages that a claim of ten jobs touches once its plans are made, all it calls included."""
    with queue.connection.transaction(force_rollback=True):
        queue.one(CLAIM)
        plan = queue.one(CLAIM)["QUERY PLAN"][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_an_enqueue_reads_only_the_head_of_the_ready_index(grown: Queue) -> None:
    """There it finds a job's place in the order."""
    with Reads(grown) as reads:
        grown.enqueue(examples=10)
    assert reads.whole == set()
    assert reads.of(QUEUE) == {f"{QUEUE}_ready"}
    assert sum(reads.entries.values()) < 50


def test_an_order_of_a_signed_in_user(grown: Queue) -> None:
    """The user's waiting images are found by an index, and today's orders in the user's row."""
    request = order("someone")
    del request["userId"]
    with Reads(grown) as reads:
        acting = """select set_config('request.jwt.claims', '{"sub": "someone"}', true),
          set_config('role', 'authenticated', true)"""
        grown.connection.execute(acting.encode())
        grown.call("enqueue_generation_batch", p_request=request)
        grown.connection.execute("reset role")
    assert reads.whole == set()
    batches = "photo_generation_batches"
    assert reads.of(batches) == {f"{batches}_{name}" for name in ("open", "pkey")}
    assert sum(reads.entries.values()) < 50


def test_a_claim_reads_only_the_heads_of_its_indexes(grown: Queue) -> None:
    """A few dozen entries for ten jobs, beside 30 000 jobs."""
    with Reads(grown) as reads:
        assert len(grown.run().claim(10)) == 10
    assert reads.whole == set()
    assert reads.of(QUEUE) == CLAIM_INDEXES
    assert reads.entries[f"{QUEUE}_ready"] <= 40
    assert sum(reads.entries.values()) < 150


def test_a_claim_of_retries(grown: Queue) -> None:
    """Returning jobs are found by their time, and their turns at the head of the ready jobs."""
    with Reads(grown) as reads:
        jobs = grown.run().claim(10)
        grown.settle_all([result_of(job, "retry") for job in jobs])
        assert len(grown.run().claim(10)) == 10
    assert reads.whole == set()
    assert reads.of(QUEUE) == CLAIM_INDEXES
    assert sum(reads.entries.values()) < 700


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


def test_a_finish_reads_only_the_held_jobs(grown: Queue) -> None:
    """A finish finds its run's jobs in the index of held jobs."""
    run = grown.run()
    run.claim(10)
    with Reads(grown) as reads:
        assert run.finish() == 10
    assert reads.whole == set()
    assert reads.of(QUEUE) <= {f"{QUEUE}_{name}" for name in ("held", "leases", "pkey")}
    assert sum(reads.entries.values()) < 200


def test_the_pages_of_a_claim(grown: Queue) -> None:
    """A claim touches as many pages with twice the jobs, and the guard sees a missing index."""
    few = blocks(grown)
    grown.connection.execute("begin")
    grown.connection.execute(FILL.format(order="more-", rows=ROWS).encode())
    many = blocks(grown)
    grown.connection.execute("drop index photo_generation_queue_ready; discard plans")
    without = blocks(grown)
    grown.connection.execute("rollback")
    assert few < 1000
    assert many < few * 1.5
    assert without > 3 * many
