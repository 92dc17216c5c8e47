"""install.sql updates every earlier installation, keeps its rows, and runs each migration once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
import pytest

from local.install_sql import functions, install_sql, migrations, version
from local.stack.postgres import Postgres
from tests.support import catalog
from tests.support.databases import TODAY, VERSIONS, Database, database
from tests.support.installation import connect
from tests.support.queue_sql import Queue, blocked

UNBOUND = "2026-11-25"

# Rows that every version can hold: a job in each state, one half made, and images of jobs that are gone.
FILL = """
    insert into photo_generation_batches
      (id, "userId", "jobsTotal", "jobsDone", "jobsFailed", "imagesTotal", "imagesDone", "imagesFailed")
    values ('b', 'u', 5, 1, 1, 15, 4, 4);
    insert into photo_generation_queue (id, "batchId", "userId", "exampleImageUrl", "basePrompt",
      "numImagesPerExample", status, "startTag", "retryAt", "lockedBy", "lockedAt", "leaseExpiresAt",
      "errorMessage", "startedAt", "completedAt")
    select v.id, 'b', 'u', 'https://photos.example.com/a.jpg', 'p', 3, v.status, 3 * v.id,
      case v.status when 'rate_limited' then now() + interval '1 hour' end, w.worker, w.since,
      w.since + interval '280 seconds', case v.status when 'failed' then 'No.' end,
      case when v.status <> 'pending' then now() - interval '1 hour' end,
      case when v.status in ('completed', 'failed') then now() end
    from (values (1, 'pending'), (2, 'processing'), (3, 'rate_limited'), (4, 'completed'), (5, 'failed'))
      as v (id, status)
    left join (select 'w/r/c' as worker, now() - interval '1 hour' as since) as w on v.status = 'processing';
    insert into photo_generation_photos ("jobId", "batchId", "userId", "imageIndex", "storagePath",
      "mimeType", width, height, bytes, model)
    select p.job, 'b', 'u', p.image, format('u/b/%s/%s', p.job, p.image), 'image/png', 1, 1, 1, 'model'
    from (values (2, 0), (4, 0), (4, 1), (4, 2)) as p (job, image);
    insert into generation.failed_images
    select f.*
    from (values (2, 1, now()), (99, 0, now()), (1, 2, now() - interval '1 day')) as v (job, image, at)
    cross join lateral jsonb_populate_record(null::generation.failed_images, jsonb_build_object(
      'jobId', v.job, 'imageIndex', v.image, 'code', 'safety', 'message', 'No.', 'createdAt', v.at,
      'batchId', 'gone')) as f;
    insert into generation.runs (id, "workerId", "startedAt", "endsBy")
    values (gen_random_uuid(), 'w', now() - interval '1 hour', now() - interval '55 minutes');
    insert into generation.flows ("userId", priority, "lastTag") values ('u', 0, 15);
    insert into generation.photo_buckets values ('my-uploads');
    delete from generation.photo_buckets where bucket = 'generated-photos'"""
HELD = ("public.photo_generation_batches", "public.photo_generation_queue", "public.photo_generation_photos",
    "generation.failed_images", "generation.runs", "generation.flows",
    "generation.photo_buckets")  # fmt: skip
Schema = dict[tuple[str, str], str]
Rows = dict[str, list[Any]]


@contextmanager
def filled(postgres: Postgres, version: str) -> Iterator[Database]:
    """A database with an earlier version, and with rows in all its tables."""
    with database(postgres, version) as made:
        made.connection.execute(FILL)
        yield made


def rows(made: Database) -> Rows:
    """Every row of the tables that are filled, as JSON."""
    return {
        table: [
            row["row"]
            for row in made.connection.execute(
                f"select to_jsonb(t) as row from {table} as t order by to_jsonb(t) ->> 'id', t::text".encode()
            ).fetchall()
        ]
        for table in HELD
    }


@pytest.fixture(scope="module")
def fresh(postgres: Postgres) -> Schema:
    """The catalog of an installation of today."""
    with database(postgres, TODAY) as made:
        return catalog.schema(made.connection)


@pytest.fixture
def unbound(postgres: Postgres) -> Iterator[Database]:
    """An installation from before images were bound to batches, with its rows."""
    with filled(postgres, UNBOUND) as made:
        yield made


class Update(NamedTuple):
    """A database after an update, and what was in it before and right after."""

    made: Database
    before: Rows
    after: Rows
    schema: Schema


@pytest.fixture(scope="module", params=VERSIONS)
def update(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[Update]:
    """Each earlier version with its rows, updated once for all tests that look at it."""
    with filled(postgres, request.param) as made:
        before = rows(made)
        made.install()
        yield Update(made, before, rows(made), catalog.schema(made.connection))


def test_an_earlier_version_becomes_a_fresh_installation_with_its_rows(update: Update, fresh: Schema) -> None:
    """Tables, keys, indexes, functions and rights are those of today; every value that was there still is."""
    assert update.schema == fresh
    images = "generation.failed_images"
    before, after = (
        {**found, images: [row | {"batchId": None} for row in found[images]]}
        for found in (update.before, update.after)
    )
    for table, kept in before.items():
        assert [{key: new[key] for key in old} for old, new in zip(kept, after[table], strict=True)] == kept


def test_work_goes_on_after_an_update(update: Update) -> None:
    """What was ready is claimed, what a worker had left is taken back, and only missing images are made."""
    queue = Queue(update.made.connection).open_gate()
    queue.call("release_stale_generation_jobs", p_older_than_seconds=0)
    jobs = {job["id"]: job for job in queue.run().claim()}
    assert sorted(jobs) == [1, 2]
    assert 0 not in jobs[2]["missing"]
    for job in jobs.values():
        queue.complete(job)
    assert queue.batch("b")["jobsDone"] == 3
    assert queue.enqueue()["jobIds"] == [6]


@pytest.mark.parametrize("name", VERSIONS[-2:])
def test_a_run_goes_on_over_an_update(scratch: Database, name: str) -> None:
    """What an earlier version handed out stays with its claim: repeated, settled, released."""
    scratch.install_earlier(name)
    queue = Queue(scratch.connection).open_gate()
    queue.call("add_generation_photo_host", p_host="photos.example.com")
    queue.enqueue(examples=3)
    run, claim = queue.run(), uuid4()
    first = run.claim(2, claim)
    run.claim(1)
    scratch.install()
    assert run.claim(2, claim) == first
    queue.complete(first[0])
    assert run.finish() == 2
    assert [row["status"] for row in rows(scratch)["public.photo_generation_queue"]] == [
        "completed",
        "pending",
        "pending",
    ]


def test_a_job_that_no_run_holds_comes_back_when_its_lease_ends(postgres: Postgres) -> None:
    """An update leaves a lockedBy that no claim wrote, and the next claim takes the job back."""
    with filled(postgres, VERSIONS[-1]) as made:
        made.install()
        queue = Queue(made.connection).open_gate()
        job = queue.job(2)
        assert (job["lockedBy"], job["runId"], job["claimId"]) == ("w/r/c", None, None)
        queue.run().claim()
        job = queue.job(2)
        assert (job["status"], job["errorCode"], job["lockedBy"]) == ("pending", "lease_expired", None)


def test_a_refused_image_is_bound_to_its_jobs_batch(unbound: Database) -> None:
    """Of a job that is gone, or that came later under the same id, it belongs to no batch."""
    unbound.install()
    images = {
        (row["jobId"], row["imageIndex"]): row["batchId"] for row in rows(unbound)["generation.failed_images"]
    }
    assert images == {(2, 1): "b", (99, 0): "", (1, 2): ""}


@pytest.mark.parametrize("update", ["2026-11-24"], indirect=True)
def test_jobs_claimed_before_claims_were_counted_are_swept(update: Update) -> None:
    """Nobody knows how often a job had been claimed: the folder of each that had is looked into once."""
    claims = {row["id"]: row["claims"] for row in update.after["public.photo_generation_queue"]}
    assert claims == {1: 0, 2: 2, 3: 2, 4: 2, 5: 2}


def test_installing_makes_no_deadlock(unbound: Database) -> None:
    """A worker that holds a job when install.sql begins goes on to the batch, and both of them succeed."""
    with connect(unbound.url) as worker, connect(unbound.url) as watcher:
        worker.execute("begin; select from photo_generation_queue for no key update")
        with blocked(Queue(unbound.connection), lambda _: unbound.install(), Queue(watcher)) as installed:
            worker.execute('update photo_generation_batches set "jobsDone" = "jobsDone"; commit')
        installed.result()


def test_ids_go_on_after_rows_came_without_their_sequences(installed: Database) -> None:
    """After a restore of rows alone install.sql sets the ids' sequences, and the next order succeeds."""
    queue = Queue(installed.connection).open_gate()
    queue.record(queue.claimed(), 0)
    queue.connection.execute("""
        alter sequence photo_generation_queue_id_seq restart;
        alter sequence photo_generation_photos_id_seq restart""")
    installed.install()
    job = queue.claimed()
    assert queue.record(job, 0)["result"] == "recorded"


def test_each_migration_runs_once_and_is_recorded(scratch: Database) -> None:
    """A second installation runs none again; the highest number is the version of the schema."""
    recorded = 'select number, name, "appliedAt" from generation.schema_migrations order by number'
    scratch.install()
    first = scratch.connection.execute(recorded.encode()).fetchall()
    scratch.install()
    assert scratch.connection.execute(recorded.encode()).fetchall() == first
    assert [f"{row['number']:04}_{row['name']}.sql" for row in first] == [path.name for path in migrations()]
    assert Queue(scratch.connection).call("generation_schema_version")["version"] == version()


def test_a_migration_that_changed_after_it_ran_is_refused(installed: Database) -> None:
    """Two databases with the same version have the same tables; whoever edits a migration learns it."""
    installed.connection.execute("update generation.schema_migrations set hash = 'other' where number = 2")
    with pytest.raises(psycopg.errors.RaiseException, match=r"migration 2 \(earlier_versions\) has changed"):
        installed.install()


def test_a_newer_database_is_not_taken_back(installed: Database) -> None:
    """An older install.sql over a newer schema would put old functions over new tables: it is refused."""
    installed.connection.execute("insert into generation.schema_migrations values (9999, 'later', '')")
    with pytest.raises(psycopg.errors.RaiseException, match=f"at 9999, this file is for {version()}"):
        installed.install()


def test_functions_of_an_earlier_version_go(installed: Database, fresh: Schema) -> None:
    """Functions that the new version changed or no longer has are removed; the app's functions stay."""
    installed.connection.execute("""
        drop function generation.virtual_time;
        create function generation.virtual_time(p_priority smallint) returns text
          language sql as 'select null::text';
        create function generation.roll_up(p_old text) returns void language sql as '';
        create function generation.long_gone() returns void language sql as '';
        create function public.app_uses() returns jsonb language sql as 'select public.generation_gate()';
        create function public.pause_generation(integer) returns text language sql as 'select null::text';
        create view app_view as select generation.quota_day(now()) as day""")
    installed.install()
    kept = {("function", "public.pause_generation(integer)")}
    assert catalog.schema(installed.connection).keys() - fresh.keys() == kept
    assert installed.connection.execute("select app_uses() is not null as works").fetchall() == [
        {"works": True}
    ]
    assert installed.connection.execute("select count(*) from app_view").fetchall() == [{"count": 1}]


def test_migrations_call_no_functions_of_the_queue() -> None:
    """Functions are made after all migrations, so that one that a migration called would not be there yet."""
    names = re.findall(
        r"^create or replace function (\w+\.\w+)", "".join(p.read_text() for p in functions()), re.M
    )
    called = [(path.name, name) for path in migrations() for name in names if f"{name}(" in path.read_text()]
    assert called == []
    assert len(names) > 100
    assert install_sql().index("call pg_temp.migrate(1,") < install_sql().index(
        f"create or replace function {names[0]}"
    )
