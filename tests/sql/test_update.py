"""An installation of an earlier version is brought up to date by install.sql, and keeps all it holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.stack.postgres import Postgres
from tests.conftest import connect
from tests.support import catalog
from tests.support.databases import Database, database
from tests.support.queue_sql import Queue, blocked

pytest_plugins = ("tests.support.database_fixtures",)

# What version 1 had otherwise, as far as `create … if not exists` and `create or replace` would let it stand.
VERSION_1 = """
    alter table photo_generation_photos drop constraint photo_generation_photos_once,
      add constraint photo_generation_photos_once unique ("jobId", "imageIndex");
    create index photo_generation_photos_batch on photo_generation_photos ("batchId");
    alter table generation.failed_images drop constraint failed_images_pkey, drop column "batchId",
      add primary key ("jobId", "imageIndex");
    drop function generation.missing_images(text, bigint, integer);
    create function generation.missing_images(p_job_id bigint, p_images integer) returns integer[]
    language sql as 'select null::integer[]';
    drop function record_failed_image(bigint, integer, text, text, text);
    create function record_failed_image(p_job_id bigint, p_image_index integer, p_code text, p_message text)
    returns jsonb language sql as 'select null::jsonb';
    create or replace function generation_schema_version() returns jsonb
    language sql stable as $$ select jsonb_build_object('version', 1) $$;"""
KEPT = """
    select (select jsonb_agg(to_jsonb(p) order by p.id) from photo_generation_photos as p) as photos,
      (select jsonb_agg(to_jsonb(f) order by f."jobId") from generation.failed_images as f) as failed"""


@pytest.fixture
def older(scratch: Database) -> Iterator[Queue]:
    """An installation of version 1: a job with a photo and a refusal, and a refusal whose job is gone."""
    scratch.install()
    queue = Queue(scratch.connection).open_gate()
    gone = queue.claimed()
    queue.refuse(gone, 0)
    queue.connection.execute("delete from photo_generation_queue")
    job = queue.claimed(images=3)
    queue.record(job, 0)
    queue.refuse(job, 1)
    queue.connection.execute(VERSION_1)
    yield queue


@pytest.fixture(scope="module")
def fresh(postgres: Postgres) -> Iterator[dict[tuple[str, str], str]]:
    """The catalog of an installation of today."""
    with database(postgres) as made:
        made.install()
        yield catalog.schema(made.connection)


def test_install_again_is_a_fresh_installation(
    older: Queue, scratch: Database, fresh: dict[tuple[str, str], str]
) -> None:
    """install.sql, run again, leaves the tables, keys, functions and rights of a first installation."""
    assert catalog.schema(older.connection) != fresh
    scratch.install()
    assert catalog.schema(older.connection) == fresh


def test_install_again_keeps_all_rows(older: Queue, scratch: Database) -> None:
    """Photos and refusals stay; a refusal is bound to its job's batch, or to none where the job is gone."""
    before = older.one(KEPT.encode())
    scratch.install()
    after = older.one(KEPT.encode())
    batches = [row.pop("batchId") for row in after["failed"]]
    assert after == before
    assert batches == ["", after["photos"][0]["batchId"]]


def test_a_refusal_older_than_the_job_is_not_the_jobs(older: Queue, scratch: Database) -> None:
    """After ids had started again, a new job is not left without an image that an old job was refused."""
    older.connection.execute("""
        insert into generation.failed_images ("jobId", "imageIndex", code, message, "createdAt")
        select id, 2, 'safety', 'Not made.', "createdAt" - interval '1 day' from photo_generation_queue""")
    scratch.install()
    older.call("release_stale_generation_jobs", p_older_than_seconds=0)
    (job,) = older.run().claim()
    assert job["missing"] == [2]


def test_install_again_makes_no_deadlock(older: Queue, scratch: Database) -> None:
    """A worker that holds a job when install.sql begins goes on to the batch, and both of them succeed."""
    with connect(scratch.url) as worker, connect(scratch.url) as watcher:
        worker.execute("begin; select from photo_generation_queue for no key update")
        with blocked(older, lambda _: scratch.install(), Queue(watcher)) as installed:
            worker.execute('update photo_generation_batches set "jobsDone" = "jobsDone"; commit')
        installed.result()


def test_work_goes_on_after_install_again(older: Queue, scratch: Database) -> None:
    """A job half done before is finished: only its third image is missing."""
    scratch.install()
    older.call("release_stale_generation_jobs", p_older_than_seconds=0)
    (job,) = older.run().claim()
    assert job["missing"] == [2]
    older.complete(job)
    assert older.batch(job["batchId"])["status"] == "partial"


def test_ids_go_on_after_rows_came_without_their_sequences(scratch: Database) -> None:
    """After a restore of rows alone install.sql sets the ids' sequences, and the next order succeeds."""
    scratch.install()
    queue = Queue(scratch.connection).open_gate()
    queue.record(queue.claimed(), 0)
    queue.connection.execute("""
        alter sequence photo_generation_queue_id_seq restart;
        alter sequence photo_generation_photos_id_seq restart""")
    scratch.install()
    job = queue.claimed()
    assert queue.record(job, 0)["result"] == "recorded"
