"""A queue of ours from before claims were counted: the upgrade adds what is missing and forgets no folder."""

import psycopg
import pytest

from tests.support import catalog
from tests.support.databases import Database
from tests.support.queue_sql import Queue

pytest_plugins = ("tests.support.database_fixtures",)

# What the sweep, pruning and erasing have brought.
BEFORE = """
    drop table generation.erasures;
    drop index public.photo_generation_queue_unswept, public.photo_generation_batches_ended,
      generation.idempotency_keys_age;
    alter table photo_generation_queue drop column claims, drop column "sweptAt", drop column "sweepUntil";
    drop function generation_jobs_to_sweep, settle_swept_generation_jobs, prune_generation_history,
      erase_generation_user, generation_erasures_to_sweep, settle_generation_erasure;"""
END = """
    update photo_generation_queue set "completedAt" = now() - interval '1 day'
    where "completedAt" is not null"""


@pytest.fixture
def older(scratch: Database) -> Database:
    """A queue as it was before, with a job failed, one completed, one being worked on and one ready."""
    scratch.install()
    queue = Queue(scratch.connection).open_gate()
    queue.enqueue(examples=4)
    failed, completed, _ = queue.run().claim(3)
    queue.settle(failed, "failed")
    queue.complete(completed)
    scratch.connection.execute(END)
    scratch.connection.execute(BEFORE)
    return scratch


def test_it_becomes_what_a_fresh_one_is(older: Database, scratch: Database) -> None:
    """Columns, indexes, table and functions are added, the report finds nothing after that, twice is once."""
    told = {finding.object: finding for finding in older.report()}
    assert told["public.photo_generation_queue.claims"].difference == "column is missing"
    assert [finding.difference for finding in older.upgrade()] == ["no difference"]
    schema, rows = catalog.schema(older.connection), catalog.rows(older.connection)
    assert [finding.difference for finding in older.upgrade()] == ["no difference"]
    assert (catalog.schema(older.connection), catalog.rows(older.connection)) == (schema, rows)


def test_jobs_claimed_before_are_swept_once(older: Database) -> None:
    """Nobody knows how often a job had been claimed: each that had is looked into, the others are not."""
    older.upgrade()
    assert [row["claims"] for row in catalog.rows(older.connection)] == [2, 2, 2, 0]
    queue = Queue(older.connection)
    swept = [job["id"] for job in queue.call("generation_jobs_to_sweep", p_limit=10)["jobs"]]
    assert swept == [1, 2]
    assert queue.call("settle_swept_generation_jobs", p_job_ids=swept) == {"swept": 2}
    older.upgrade()
    assert queue.call("generation_jobs_to_sweep", p_limit=10)["jobs"] == []


def test_installing_over_it_names_the_upgrade(older: Database) -> None:
    """install.sql does not half-install on top of an older version of ours: it names upgrade.sql."""
    schema = catalog.schema(older.connection)
    with pytest.raises(psycopg.errors.RaiseException) as refused:
        older.install()
    assert refused.value.diag.message_hint == "Run sql/upgrade.sql."
    assert catalog.schema(older.connection) == schema
