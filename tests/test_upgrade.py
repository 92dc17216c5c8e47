"""An old table becomes ours: its schema equals the fresh one, its rows are right, the app's own stays."""

import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from local.postgres import Postgres
from local.stack import Stack
from tests import catalog
from tests.databases import Database, database
from tests.old_tables import JOBS, OLD_TABLES, PHOTO, UUIDS, OldTable
from tests.queue_sql import Queue

pytest_plugins = ("tests.database_fixtures",)

SHAPES = pytest.mark.parametrize("old", [pytest.param(old, id=name) for name, old in OLD_TABLES.items()])
DRIZZLE = OLD_TABLES["serial, enum, integer users, times without zone"]
AROUND = OLD_TABLES["an app around it"]
STATUSES = ["pending", "pending", "completed", "failed", "rate_limited", "pending"]
BATCHES = 'select * from photo_generation_batches order by "createdAt"'


@pytest.fixture(scope="module", params=[18, 16])
def postgres(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Postgres]:
    """The newest PostgreSQL, and an older one, which words its catalogs differently."""
    if request.param == 18:
        yield stack.postgres
        return
    folder = Path(tempfile.mkdtemp(prefix="older-"))
    try:
        with Postgres(folder, version=request.param, durable=False) as older:
            yield older
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def fresh(postgres: Postgres) -> dict[tuple[str, str], str]:
    """The schema of a fresh installation."""
    with database(postgres) as made:
        made.install()
        return catalog.schema(made.connection)


def upgraded(scratch: Database, old: OldTable) -> list[dict[str, Any]]:
    """The rows of the old table after the upgrade."""
    scratch.connection.execute(old.sql.encode())
    scratch.upgrade(old.mode)
    return catalog.rows(scratch.connection)


@SHAPES
def test_the_migrated_schema_equals_the_fresh_one(
    scratch: Database, fresh: dict[tuple[str, str], str], old: OldTable
) -> None:
    """Every part of a fresh installation is there, with the same definition and rights; the rest is the app's own."""
    upgraded(scratch, old)
    migrated = catalog.schema(scratch.connection)
    assert {part: migrated.get(part) for part in fresh} == fresh
    assert migrated.keys() - fresh.keys() == old.kept


@SHAPES
def test_the_report_changes_nothing_and_then_finds_nothing(scratch: Database, old: OldTable) -> None:
    """Unless told to, only the report is made; after the upgrade it tells of nothing but the app's own."""
    scratch.connection.execute(old.sql.encode())
    before = catalog.schema(scratch.connection), catalog.rows(scratch.connection)
    told = scratch.report()
    assert (catalog.schema(scratch.connection), catalog.rows(scratch.connection)) == before
    assert len(told) > 40
    done = scratch.upgrade(old.mode)
    assert done[0].difference == "no difference"
    assert all("kept" in finding.action for finding in done[1:])
    assert scratch.report() == done


@SHAPES
def test_every_row_keeps_its_facts_and_gets_a_valid_state(scratch: Database, old: OldTable) -> None:
    """No row is lost; ids are text, times UTC, lists JSON; nothing is locked; what ended says when and why."""
    rows = upgraded(scratch, old)
    assert [row["status"] for row in rows] == STATUSES
    users = [job["userId"] for job in JOBS]
    assert [row["userId"] for row in rows] == [
        UUIDS[str(user)] if "uuid" in old.columns["userId"] else user for user in users
    ]
    created = [datetime.fromisoformat(str(job["createdAt"])).replace(tzinfo=UTC) for job in JOBS]
    assert [datetime.fromisoformat(row["createdAt"]) for row in rows] == created
    photos = [PHOTO] if "trainingImageUrls" in old.columns else []
    assert all(row["trainingImageUrls"] == photos for row in rows)
    assert not any(row["lockedBy"] or row["lockedAt"] or row["leaseExpiresAt"] for row in rows)
    assert [bool(row["completedAt"]) for row in rows] == [
        status in ("completed", "failed") for status in STATUSES
    ]
    assert rows[3]["errorMessage"]
    assert rows[4]["retryAt"]
    assert {row["maxAttempts"] for row in rows} <= {3, 5}
    assert {row["attempts"] for row in rows} == {0}


@SHAPES
def test_every_job_belongs_to_a_batch_that_counts_it(scratch: Database, old: OldTable) -> None:
    """Jobs with a batch id share a batch, others have one each; it counts its jobs and has their status."""
    rows = upgraded(scratch, old)
    batches = {row["id"]: row for row in scratch.connection.execute(BATCHES).fetchall()}
    shares = "batchId" in old.columns
    assert len({row["batchId"] for row in rows}) == len(batches) == (4 if shares else 6)
    for batch_id, batch in batches.items():
        jobs = [row for row in rows if row["batchId"] == batch_id]
        done, failed = (
            [job for job in jobs if job["status"] == status] for status in ("completed", "failed")
        )
        assert (batch["jobsTotal"], batch["jobsDone"], batch["jobsFailed"]) == (
            len(jobs),
            len(done),
            len(failed),
        )
        assert (batch["imagesTotal"], batch["imagesDone"], batch["imagesFailed"]) == tuple(
            4 * len(some) for some in (jobs, done, failed)
        )
        assert {job["userId"] for job in jobs} == {batch["userId"]}
        ended = len(done) + len(failed) == len(jobs)
        expected = ("completed" if done else "failed") if ended else "generating"
        assert (batch["status"], batch["completedAt"] is not None) == (expected, ended)


@SHAPES
def test_unfinished_jobs_stand_in_the_fair_order(scratch: Database, old: OldTable) -> None:
    """Each user's jobs are served by age, one user's beside the other's, and a newcomer's beside both."""
    upgraded(scratch, old)
    queue = Queue(scratch.connection)
    queue.enqueue(user_id="newcomer", images=4)
    queue.enqueue(user_id="newcomer", images=4)
    scratch.connection.execute(
        "update photo_generation_queue set \"retryAt\" = now() + interval '1 hour' where id = 5"
    )
    assert [job["id"] for job in queue.run().claim()] == [1, 6, 7, 2, 8]
    scratch.connection.execute('update photo_generation_queue set "retryAt" = now() where id = 5')
    assert [job["id"] for job in queue.run().claim()] == [5]


@SHAPES
def test_old_inserts_are_worked_off_afterwards(scratch: Database, old: OldTable) -> None:
    """What the old `generate-images` inserts as before is numbered on, counted by a batch, and claimed."""
    rows = upgraded(scratch, old)
    scratch.connection.execute("set role service_role")
    lists = {"trainingImageUrls": "'[]'", "backgrounds": "'[]'"}
    needed = {"userId": "1", "exampleImageUrl": f"'{PHOTO}'", "basePrompt": "'p'"}
    optional = {"batchId": "7", "exampleImageId": "3", "status": "'pending'"}
    values = needed | {name: value for name, value in (optional | lists).items() if name in old.columns}
    names = ", ".join(f'"{name}"' for name in values)
    scratch.connection.execute(
        f"insert into photo_generation_queue ({names}) values ({', '.join(values.values())})".encode()
    )
    scratch.connection.execute("reset role")
    new = catalog.rows(scratch.connection)[-1]
    assert new["id"] == len(rows) + 1
    queue = Queue(scratch.connection)
    assert new["id"] in [job["id"] for job in queue.run().claim()]
    if old.columns["userId"].startswith("integer") and "batchId" in old.columns:
        assert (queue.batch("7")["jobsTotal"], queue.batch("7")["imagesTotal"]) == (4, 16)


@SHAPES
def test_running_it_again_touches_no_row(scratch: Database, old: OldTable) -> None:
    """A second upgrade, with the new worker at work, leaves every row as it is, leases included."""
    upgraded(scratch, old)
    assert Queue(scratch.connection).run().claim()
    before = catalog.rows(scratch.connection)
    batches = catalog.rows(scratch.connection, "public.photo_generation_batches")
    scratch.upgrade()
    assert catalog.rows(scratch.connection) == before
    assert catalog.rows(scratch.connection, "public.photo_generation_batches") == batches


def test_the_apps_own_things_stay(scratch: Database) -> None:
    """Its columns keep their values, its trigger does not fire but stays on, its references hold."""
    scratch.connection.execute(AROUND.sql.encode())
    before = [(row["updatedAt"], row["credits"]) for row in catalog.rows(scratch.connection)]
    scratch.upgrade()
    assert [(row["updatedAt"], row["credits"]) for row in catalog.rows(scratch.connection)] == before
    trigger = scratch.connection.execute("select tgenabled from pg_trigger where tgname = 'touch'").fetchone()
    assert trigger == {"tgenabled": "A"}
    with pytest.raises(Exception, match="app_credits"):
        scratch.connection.execute("delete from photo_generation_queue where id = 1")


def test_the_report_names_what_is_dropped_and_what_stays(scratch: Database) -> None:
    """Every constraint, index and policy of the app is told with its definition and its fate."""
    scratch.connection.execute(AROUND.sql.encode())
    fates = {finding.object.rpartition(" ")[2]: finding for finding in scratch.report()}
    for name in ("user_fk", "batch_fk", "theirs"):
        assert fates[name].action.startswith(("alter table", "drop policy")), fates[name]
    for name in ("paid", "touch", "by_user", "app_credits_job_fkey"):
        assert fates[name].action.startswith(("kept", "the app's own: kept")), fates[name]
    assert fates["user_fk"].difference == 'FOREIGN KEY ("userId") REFERENCES public.app_users(id)'
    assert fates["app_key"].action.endswith("rename constraint app_key to photo_generation_queue_pkey")


def test_without_an_old_table_it_installs(scratch: Database, fresh: dict[tuple[str, str], str]) -> None:
    """On an empty database the upgrade is the installation."""
    scratch.upgrade()
    assert catalog.schema(scratch.connection) == fresh


def test_psql_runs_it_as_the_readme_says(scratch: Database) -> None:
    """`psql -f` reports; with PGOPTIONS it upgrades."""
    scratch.connection.execute(DRIZZLE.sql.encode())
    scratch.connection.commit()
    told = scratch.psql("-f", "sql/upgrade.sql")
    assert "is app_status, not text" in told.stdout.replace("public.", "")
    done = scratch.psql("-f", "sql/upgrade.sql", options="-c generation.upgrade=apply")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("schema|no difference|nothing to do|no\n")
