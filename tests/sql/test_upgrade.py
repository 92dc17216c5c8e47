"""An old table becomes ours: its schema equals the fresh one, its rows are right, the app's own stays."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from local.stack.postgres import Postgres
from tests.support import catalog
from tests.support.databases import Database, Finding, database
from tests.support.old_tables import JOBS, OLD_TABLES, PHOTO, UUIDS, OldTable
from tests.support.queue_sql import Queue

pytest_plugins = ("tests.support.database_fixtures",)

AROUND = OLD_TABLES["an app around it"]
STATUSES = ["pending", "pending", "completed", "failed", "rate_limited", "pending"]
BATCHES = 'select * from photo_generation_batches order by "createdAt"'
Schema = dict[tuple[str, str], str]
State = tuple[Schema, list[Any]]


def state_of(made: Database) -> State:
    """The schema and the jobs of a database."""
    return catalog.schema(made.connection), catalog.rows(made.connection)


@dataclass(frozen=True)
class Migration:
    """What was seen while an old table was reported on, upgraded, and reported on again."""

    old: OldTable
    made: Database
    before: State
    told: list[Finding]
    untouched: State
    done: list[Finding]
    after: State
    again: list[Finding]

    @property
    def rows(self) -> list[Any]:
        """The jobs afterwards."""
        return self.after[1]


@pytest.fixture(scope="module", params=OLD_TABLES.values(), ids=list(OLD_TABLES))
def migration(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[Migration]:
    """Each old table upgraded, once for all tests that look at it."""
    old = request.param
    with database(postgres) as made:
        made.connection.execute(old.sql.encode())
        before, told, untouched = state_of(made), made.report(), state_of(made)
        done, after, again = made.upgrade(old.mode), state_of(made), made.report()
        yield Migration(old, made, before, told, untouched, done, after, again)


@pytest.fixture
def queue(migration: Migration) -> Iterator[Queue]:
    """The functions on the upgraded table; what a test does is undone."""
    with migration.made.connection.transaction(force_rollback=True):
        yield Queue(migration.made.connection).open_gate()


@pytest.fixture(scope="module")
def fresh(postgres: Postgres) -> Schema:
    """The schema of a fresh installation."""
    with database(postgres) as made:
        made.install()
        return catalog.schema(made.connection)


def check_equal(migrated: Schema, fresh: Schema, old: OldTable) -> None:
    """Each part of a fresh installation is there, with the same definition and rights; more is the app's."""
    assert {part: migrated.get(part) for part in fresh} == fresh
    assert migrated.keys() - fresh.keys() == old.kept


def test_the_migrated_schema_equals_the_fresh_one(migration: Migration, fresh: Schema) -> None:
    """An upgraded database and a fresh one are the same, but for what is the app's own."""
    check_equal(migration.after[0], fresh, migration.old)


def test_the_report_changes_nothing_and_then_finds_nothing(migration: Migration) -> None:
    """Unless told to, only the report is made; after the upgrade it tells of nothing but the app's own."""
    assert migration.untouched == migration.before
    assert len(migration.told) > 40
    assert migration.done[0].difference == "no difference"
    assert all("kept" in finding.action for finding in migration.done[1:])
    assert migration.again == migration.done


def test_photos_come_from_where_they_came_before(migration: Migration) -> None:
    """The old queue's orders had photos of any public host: they are still made, and new ones are taken."""
    answer = Queue(migration.made.connection).call("generation_photo_hosts")
    assert answer == {"hosts": ["*"]}


def test_every_row_keeps_its_facts_and_gets_a_valid_state(migration: Migration) -> None:
    """No row is lost; ids are text, times UTC, lists JSON; nothing is locked; what ended says so."""
    rows, columns = migration.rows, migration.old.columns
    assert [row["status"] for row in rows] == STATUSES
    users = [str(job["userId"]) for job in JOBS]
    assert [row["userId"] for row in rows] == [
        UUIDS[user] if "uuid" in columns["userId"] else user for user in users
    ]
    created = [datetime.fromisoformat(str(job["createdAt"])).replace(tzinfo=UTC) for job in JOBS]
    assert [datetime.fromisoformat(row["createdAt"]) for row in rows] == created
    photos = [PHOTO] if "trainingImageUrls" in columns else []
    assert all(row["trainingImageUrls"] == photos for row in rows)
    assert not any(row["lockedBy"] or row["lockedAt"] or row["leaseExpiresAt"] for row in rows)
    ended = [status in ("completed", "failed") for status in STATUSES]
    assert [bool(row["completedAt"]) for row in rows] == ended
    assert rows[3]["errorMessage"]
    assert rows[4]["retryAt"]
    assert {row["maxAttempts"] for row in rows} <= {3, 5}
    assert {row["attempts"] for row in rows} == {0}


def test_every_job_belongs_to_a_batch_that_counts_it(migration: Migration) -> None:
    """Jobs with a batch id share a batch, others have one each; it counts its jobs and has their status."""
    batches = {row["id"]: row for row in migration.made.connection.execute(BATCHES).fetchall()}
    shares = "batchId" in migration.old.columns
    assert len({row["batchId"] for row in migration.rows}) == len(batches) == (4 if shares else 6)
    for batch_id, batch in batches.items():
        jobs = [row for row in migration.rows if row["batchId"] == batch_id]
        done, failed = (
            [job for job in jobs if job["status"] == status] for status in ("completed", "failed")
        )
        counts = len(jobs), len(done), len(failed)
        assert (batch["jobsTotal"], batch["jobsDone"], batch["jobsFailed"]) == counts
        images = tuple(4 * count for count in counts)
        assert (batch["imagesTotal"], batch["imagesDone"], batch["imagesFailed"]) == images
        assert {job["userId"] for job in jobs} == {batch["userId"]}
        ended = len(done) + len(failed) == len(jobs)
        expected = ("completed" if done else "failed") if ended else "generating"
        assert (batch["status"], batch["completedAt"] is not None) == (expected, ended)


def test_unfinished_jobs_stand_in_the_fair_order(queue: Queue) -> None:
    """Each user's jobs are served by age, one user's beside the other's, and a newcomer's beside both."""
    queue.enqueue(user_id="newcomer", images=4)
    queue.enqueue(user_id="newcomer", images=4)
    assert [job["id"] for job in queue.run().claim()] == [1, 5, 2, 6, 7, 8]


def test_old_inserts_are_worked_off_afterwards(migration: Migration, queue: Queue) -> None:
    """What the old `generate-images` inserts as before is numbered on, counted by a batch, and claimed."""
    columns = migration.old.columns
    optional = {"batchId": "7", "exampleImageId": "3", "status": "'pending'"}
    lists = {"trainingImageUrls": "'[]'", "backgrounds": "'[]'"}
    values = {"userId": "1", "exampleImageUrl": f"'{PHOTO}'", "basePrompt": "'p'"}
    values |= {name: value for name, value in (optional | lists).items() if name in columns}
    names = ", ".join(f'"{name}"' for name in values)
    insert = (
        f"insert into photo_generation_queue ({names}) values ({', '.join(values.values())}) returning id"
    )
    queue.connection.execute("set local role service_role")
    new = queue.job(queue.one(insert.encode())["id"])
    queue.connection.execute("reset role")
    assert new["id"] > 6
    assert new["id"] in [job["id"] for job in queue.run().claim()]
    batch = queue.batch(new["batchId"])
    jobs = [row for row in migration.rows if row["batchId"] == new["batchId"]]
    assert (batch["jobsTotal"], batch["imagesTotal"]) == (len(jobs) + 1, 4 * len(jobs) + 4)


@pytest.fixture(scope="module")
def older() -> Iterator[Postgres]:
    """PostgreSQL 16, which words its catalogs differently."""
    folder = Path(tempfile.mkdtemp(prefix="older-"))
    try:
        with Postgres(folder, version=16, durable=False) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_an_older_postgres_upgrades_the_same(older: Postgres) -> None:
    """PostgreSQL 16 gives the same result as 18 for every old table."""
    with database(older) as made:
        made.upgrade()
        fresh = catalog.schema(made.connection)
    for old in OLD_TABLES.values():
        with database(older) as made:
            made.connection.execute(old.sql.encode())
            made.upgrade(old.mode)
            check_equal(catalog.schema(made.connection), fresh, old)
            assert [row["status"] for row in catalog.rows(made.connection)] == STATUSES


def test_running_it_again_touches_no_row(scratch: Database) -> None:
    """A second upgrade, with the new worker at work, leaves every row as it is, leases included."""
    scratch.connection.execute(AROUND.sql.encode())
    scratch.upgrade()
    assert Queue(scratch.connection).run().claim()
    before = catalog.rows(scratch.connection)
    batches = catalog.rows(scratch.connection, "public.photo_generation_batches")
    scratch.upgrade()
    assert catalog.rows(scratch.connection) == before
    assert catalog.rows(scratch.connection, "public.photo_generation_batches") == batches


def test_without_an_old_table_it_installs(scratch: Database, fresh: Schema) -> None:
    """On an empty database the upgrade is the installation."""
    scratch.upgrade()
    assert catalog.schema(scratch.connection) == fresh
