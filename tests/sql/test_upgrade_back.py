"""The way back and the way around, with the statements of sql/README.md: each is run as it is printed."""

from dataclasses import replace
from typing import Any

import psycopg
import pytest

from local.install_sql import SQL
from tests.support import catalog
from tests.support.databases import Database
from tests.support.old_tables import DRIZZLE, ENUM, OLD_TABLES
from tests.support.queue_sql import Queue

pytest_plugins = ("tests.support.database_fixtures",)

PLAIN = OLD_TABLES["serial, enum, integer users, times without zone"]

# How an old worker took a job, ended it, put it off and gave it up. It knew no leases and left its locks on.
CLAIM = """
    update photo_generation_queue set status = 'processing', "lockedBy" = 'old', "lockedAt" = now(),
      attempts = attempts + 1
    where id = (
      select id from photo_generation_queue
      where status in ('pending', 'rate_limited') and ("retryAt" is null or "retryAt" <= now())
      order by priority desc, "createdAt" limit 1 for update skip locked)
    returning id, "userId", "exampleImageUrl", "trainingImageUrls", "basePrompt", attempts"""
COMPLETE = "update photo_generation_queue set status = 'completed', \"completedAt\" = now() where id = %s"
DELAY = """
    update photo_generation_queue set status = 'rate_limited', "retryAt" = now() + interval '1 minute'
    where id = %s"""
FAIL = "update photo_generation_queue set status = 'failed', \"errorMessage\" = 'no' where id = %s"
ORPHANS = "select count(*) from photo_generation_queue where \"lockedAt\" < now() - interval '5 minutes'"


def blocks(heading: str) -> list[str]:
    """The SQL printed under a heading of sql/README.md."""
    _, section = (SQL / "README.md").read_text().split(f"\n### {heading}\n")
    return [block.split("\n```")[0] for block in section.split("\n##")[0].split("```sql\n")[1:]]


@pytest.fixture
def back(scratch: Database) -> Database:
    """An upgraded table on its way back."""
    scratch.connection.execute(PLAIN.sql.encode())
    scratch.upgrade()
    scratch.connection.execute(blocks("The way back")[0].encode())
    return scratch


def claimed(scratch: Database) -> Any:
    """The job the old worker takes next."""
    return scratch.connection.execute(CLAIM.encode()).fetchone()


def test_the_new_constraints_stop_an_old_worker_that_was_left_on(scratch: Database) -> None:
    """Without the way back an old worker takes nothing: both at once would pay for the same images."""
    scratch.connection.execute(PLAIN.sql.encode())
    scratch.upgrade()
    with pytest.raises(psycopg.errors.CheckViolation):
        claimed(scratch)


def test_the_old_worker_works_after_the_way_back(back: Database) -> None:
    """It finds every column, claims by age, completes, delays, fails, and sees orphans as it did."""
    first, second, third = claimed(back), claimed(back), claimed(back)
    assert [job["id"] for job in (first, second, third)] == [1, 2, 5]
    assert (first["trainingImageUrls"], first["attempts"]) == (["https://photos.example.com/a.jpg"], 1)
    back.connection.execute(COMPLETE, [1])
    back.connection.execute(DELAY, [2])
    back.connection.execute(FAIL, [5])
    assert back.connection.execute(ORPHANS.encode()).fetchone() == {"count": 0}
    rows = catalog.rows(back.connection)
    assert [rows[i]["status"] for i in (0, 1, 4)] == ["completed", "rate_limited", "failed"]


def test_forward_again_counts_what_the_old_worker_did(back: Database) -> None:
    """The same file fixes its rows, counts its batches and puts the constraints back."""
    fresh = catalog.schema(back.connection)
    for statement in (COMPLETE, DELAY, FAIL):
        back.connection.execute(statement.encode(), [claimed(back)["id"]])
    assert back.upgrade()[0].difference == "no difference"
    assert len(catalog.schema(back.connection)) == len(fresh) + 5
    queue = Queue(back.connection).open_gate()
    assert queue.counters("7") == (2, 0, 8, 0)
    assert queue.counters(queue.job(5)["batchId"]) == (0, 1, 0, 4)
    assert queue.batch(queue.job(5)["batchId"])["status"] == "failed"
    assert [job["id"] for job in queue.run().claim()] == [6]


def test_photos_made_before_the_way_back_are_counted_once(scratch: Database) -> None:
    """A job half made by the new worker and ended by the old one counts each of its images once."""
    scratch.connection.execute(PLAIN.sql.encode())
    scratch.upgrade()
    queue = Queue(scratch.connection).open_gate()
    run = queue.run()
    job = next(job for job in run.claim() if job["id"] == 6)
    queue.record(job, 0)
    queue.refuse(job, 1)
    run.finish()
    scratch.connection.execute(blocks("The way back")[0].encode())
    scratch.connection.execute(COMPLETE, [6])
    scratch.upgrade()
    assert queue.counters("8") == (1, 0, 3, 1)
    assert queue.batch("8")["status"] == "partial"


def test_old_statuses_in_capitals_can_be_had_back(scratch: Database) -> None:
    """An app that spells its statuses otherwise gets them back, and forward again they are ours."""
    scratch.connection.execute(OLD_TABLES["enum in capitals"].sql.encode())
    scratch.upgrade()
    for block in blocks("The way back"):
        scratch.connection.execute(block.encode())
    assert {row["status"] for row in catalog.rows(scratch.connection)} >= {"PENDING", "COMPLETED"}
    scratch.upgrade()
    assert {row["status"] for row in catalog.rows(scratch.connection)} >= {"pending", "completed"}


def test_uuid_ids_are_left_behind_and_what_is_unfinished_moves(scratch: Database) -> None:
    """By the README's statements the old table stays under another name and its open jobs are worked off."""
    columns = DRIZZLE | {"id": "uuid primary key default gen_random_uuid()", "createdAt": "timestamptz"}
    scratch.connection.execute(replace(PLAIN, columns=columns, before=ENUM).sql.encode())
    aside, move = blocks("Ids that are not numbers")
    with pytest.raises(psycopg.errors.RaiseException, match="older"):
        scratch.install()
    scratch.connection.execute(aside.encode())
    scratch.install()
    scratch.connection.execute(move.encode())
    assert len(catalog.rows(scratch.connection, "public.photo_generation_queue_old")) == 6
    assert scratch.report()[0].difference == "no difference"
    queue = Queue(scratch.connection).open_gate()
    assert len(queue.run().claim()) == 4
    assert queue.batch("7")["jobsTotal"] == 2
