"""An older worker's jobs move into our tables: nothing is lost, and what cannot be mapped is refused."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from local.install_sql import SQL
from local.stack.postgres import Postgres
from tests.support import catalog
from tests.support.databases import TODAY, Database, Finding, database
from tests.support.old_tables import DRIZZLE, JOBS, OLD_TABLES, PHOTO, UUIDS, OldTable
from tests.support.queue_sql import Queue

PLAIN = OLD_TABLES["serial, enum, integer users, times without zone"]
OLD = "public.photo_generation_queue_old"
MIGRATED = ["pending", "pending", "completed", "failed", "rate_limited", "pending"]
BATCHES = 'select * from photo_generation_batches order by "createdAt"'
UPDATE = "update photo_generation_queue set"
Schema = dict[tuple[str, str], str]


@dataclass(frozen=True)
class Migration:
    """An old table, the database it was migrated in, and what was seen at each step."""

    old: OldTable
    made: Database
    before: tuple[Schema, list[Any]]
    reported: tuple[Schema, list[Any]]
    again: list[Finding]

    @property
    def rows(self) -> list[Any]:
        """The jobs in the new table."""
        return catalog.rows(self.made.connection)


def state_of(made: Database) -> tuple[Schema, list[Any]]:
    """The schema and the jobs of a database."""
    return catalog.schema(made.connection), catalog.rows(made.connection)


@pytest.fixture(scope="module", params=OLD_TABLES.values(), ids=list(OLD_TABLES))
def migration(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[Migration]:
    """Each old table migrated, once for all tests that look at it."""
    old = request.param
    with database(postgres) as made:
        made.connection.execute(f"{old.sql}{old.fix}".encode())
        before = state_of(made)
        made.report()
        reported = state_of(made)
        made.migrate()
        yield Migration(old, made, before, reported, made.step())


@pytest.fixture
def queue(migration: Migration) -> Iterator[Queue]:
    """The functions on the migrated queue; what a test does is undone."""
    with migration.made.connection.transaction(force_rollback=True):
        yield Queue(migration.made.connection).open_gate()


@pytest.fixture(scope="module")
def fresh(postgres: Postgres) -> Schema:
    """The schema of a fresh installation."""
    with database(postgres, TODAY) as made:
        return catalog.schema(made.connection)


def test_the_report_changes_nothing(migration: Migration) -> None:
    """Unchanged, the file only reports."""
    assert migration.reported == migration.before


def test_the_schema_is_a_fresh_one_with_the_apps_columns(migration: Migration, fresh: Schema) -> None:
    """The schema is that of a fresh installation, plus the old table and the app's own columns."""
    schema = catalog.schema(migration.made.connection)
    assert {part: schema.get(part) for part in fresh} == fresh
    more = {name for _, name in schema.keys() - fresh.keys() if "photo_generation_queue_old" not in name}
    assert more == {f"public.photo_generation_queue.{name}" for name in migration.old.own}


def test_the_old_table_keeps_its_rows(migration: Migration) -> None:
    """Whatever the migration did, the old rows are still there to look at, under the other name."""
    assert catalog.rows(migration.made.connection, OLD) == migration.before[1]


def test_every_job_is_copied_with_its_facts(migration: Migration) -> None:
    """Ids stay; users are text, times UTC, lists JSON; nothing is locked; what ended says so."""
    rows, columns = migration.rows, migration.old.columns
    assert [(row["id"], row["status"]) for row in rows] == list(enumerate(MIGRATED, 1))
    users = [str(job["userId"]) for job in JOBS]
    assert [row["userId"] for row in rows] == [
        UUIDS[user] if "uuid" in columns["userId"] else user for user in users
    ]
    created = [datetime.fromisoformat(str(job["createdAt"])).replace(tzinfo=UTC) for job in JOBS]
    assert [datetime.fromisoformat(row["createdAt"]) for row in rows] == created
    photos = [PHOTO] if "trainingImageUrls" in columns else []
    assert all(row["trainingImageUrls"] == photos for row in rows)
    assert not any(row["lockedBy"] or row["lockedAt"] or row["leaseExpiresAt"] for row in rows)
    assert [bool(row["completedAt"]) for row in rows] == [
        status in ("completed", "failed") for status in MIGRATED
    ]
    assert rows[3]["errorMessage"] and rows[4]["retryAt"]
    assert {row["maxAttempts"] for row in rows} <= {3, 5} and {row["attempts"] for row in rows} == {0}
    assert all(row["credits"] == 1 for row in rows if "credits" in columns)


def test_every_job_belongs_to_a_batch_that_counts_it(migration: Migration) -> None:
    """Jobs with a batch id share a batch, others have one each; it counts its jobs and has their status."""
    batches = {row["id"]: row for row in migration.made.connection.execute(BATCHES).fetchall()}
    assert len({row["batchId"] for row in migration.rows}) == len(batches)
    assert len(batches) == (4 if "batchId" in migration.old.columns else 6)
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


def test_unfinished_jobs_are_claimed_in_the_fair_order(queue: Queue) -> None:
    """Each user's jobs are served by age, beside a new user's; jobs that waited for a quota take a turn."""
    queue.enqueue(user_id="newcomer", images=4)
    queue.enqueue(user_id="newcomer", images=4)
    assert [job["id"] for job in queue.run().claim()] == [1, 2, 5, 6, 7, 8]


def test_what_the_old_app_inserts_afterwards_is_claimed(migration: Migration, queue: Queue) -> None:
    """A row that the old `generate-images` inserts as before gets a new id and a batch, and is claimed."""
    columns = migration.old.columns
    optional = {"batchId": "7", "exampleImageId": "3", "status": "'pending'", "credits": "2"}
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
    jobs = [row for row in migration.rows if row["batchId"] == new["batchId"]]
    assert queue.batch(new["batchId"])["jobsTotal"] == len(jobs)


def test_a_job_is_copied_once(migration: Migration) -> None:
    """Running the last step again copies nothing, so that jobs pruned since do not come back."""
    assert [finding for finding in migration.again if finding.what == "rows"] == []
    assert len(migration.rows) == 6


# What cannot be mapped: the SQL that makes it, and what the report says of it.
OBSTACLES = {
    "a status nobody knows": (f"{UPDATE} status = 'stuck' where id = 1;", "1: unknown status stuck (id 1)"),
    "no status": (f"{UPDATE} status = null where id = 4;", "1: unknown status null (id 4)"),
    "no user": (
        'alter table photo_generation_queue alter "userId" drop not null;'
        f'{UPDATE} "userId" = null where id = 2;',
        "1: no user (id 2)",
    ),
    "a batch id with a slash": (f"{UPDATE} \"batchId\" = 'a/b' where id = 5;", "name a folder (id 5)"),
    "no images": (f'{UPDATE} "numImagesPerExample" = 0 where id = 3;', "not 1 to 100 (id 3)"),
    "a list that is an object": (
        f"{UPDATE} backgrounds = '{{\"a\": 1}}' where id = 5;",
        "a list that cannot be read (id 5)",
    ),
    "a time in words": (f"{UPDATE} \"retryAt\" = 'soon' where id = 5;", "a time that cannot be read (id 5)"),
    "a worker at work": (
        f"{UPDATE} \"lockedAt\" = now(), status = 'processing' where id = 3;",
        "processing, locked within five minutes or nobody knows when (id 3)",
    ),
    "a batch of several users": (
        f'{UPDATE} "batchId" = 9 where id in (1, 6);',
        "2: a batch with jobs of several users",
    ),
    "a priority out of range": (f"{UPDATE} priority = 40000 where id = 3;", "priority is not"),
    "a foreign key": ("create table app_a (job integer references photo_generation_queue);", "FOREIGN KEY"),
    "a view": ("create view app_view as select id from photo_generation_queue;", "FROM public.photo_gen"),
    "a public bucket": (
        "insert into storage.buckets (id, public) values ('generated-photos', true);",
        "is public",
    ),
}


def test_whatever_cannot_be_mapped_is_named_and_refused(scratch: Database) -> None:
    """The report has a row for each obstacle; migrating changes nothing, and the error names them all."""
    columns = DRIZZLE | {"status": "text", "batchId": "text", "backgrounds": "jsonb", "retryAt": "text"}
    after = "\n".join(make for make, _ in OBSTACLES.values())
    scratch.connection.execute(OldTable(columns, after=after).sql.encode())
    state = state_of(scratch)
    blocking = [finding for finding in scratch.report() if finding.blocking == "yes"]
    found = [finding.found for finding in blocking]
    for name, (_, said) in OBSTACLES.items():
        assert len([text for text in found if said in text]) == 1, (name, found)
    assert len(found) == len(OBSTACLES)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="nothing was changed") as refused:
        scratch.step()
    assert all(finding.becomes in (refused.value.diag.message_detail or "") for finding in blocking)
    assert state_of(scratch) == state


def test_ids_that_two_rows_share_are_refused(scratch: Database) -> None:
    """Without a primary key two rows may have the same id, which could not be mapped."""
    after = "alter table photo_generation_queue drop constraint photo_generation_queue_pkey;"
    scratch.connection.execute(replace(PLAIN, after=f"{after} {UPDATE} id = 1 where id = 4;").sql.encode())
    (blocking,) = [finding for finding in scratch.report() if finding.blocking == "yes"]
    assert blocking.found == "2: no id of their own (id 1, 1)"


def test_uuid_ids_become_numbers_and_the_app_can_look_them_up(scratch: Database) -> None:
    """Jobs whose ids are no numbers get new ones, and a table has the old and the new id of each."""
    columns = DRIZZLE | {"id": "uuid primary key default gen_random_uuid()"}
    scratch.connection.execute(replace(PLAIN, columns=columns).sql.encode())
    scratch.migrate()
    pairs = scratch.connection.execute("""
        select o."userId"::text = q."userId" and o."createdAt" = q."createdAt" at time zone 'UTC' as same
        from photo_generation_queue_old as o
        join photo_generation_queue_old_ids as i on i."oldId" = o.id::text
        join photo_generation_queue as q on q.id = i."newId" """).fetchall()
    assert pairs == [{"same": True}] * 6
    assert len(Queue(scratch.connection).open_gate().run().claim()) == 4


def test_orders_between_the_steps_are_taken_and_made(scratch: Database) -> None:
    """The app can order all the time: through the view until install.sql, then into the new table."""
    scratch.connection.execute(PLAIN.sql.encode())
    order = f"""insert into photo_generation_queue ("userId", "batchId", "exampleImageUrl", "basePrompt")
        values (3, 9, '{PHOTO}', 'p') returning id"""
    ids = []
    for step in (scratch.step, scratch.install, scratch.step):
        step()
        with scratch.connection.transaction():
            scratch.connection.execute("grant usage on all sequences in schema public to service_role")
            scratch.connection.execute("set local role service_role")
            ids += [row["id"] for row in scratch.connection.execute(order.encode()).fetchall()]
    assert ids == [7, 8, 9]
    queue = Queue(scratch.connection).open_gate()
    assert queue.counters("9") == (0, 0, 0, 0) and queue.batch("9")["jobsTotal"] == 3
    assert {7, 8, 9} <= {job["id"] for job in queue.run().claim()}


def test_an_old_worker_that_was_left_on_takes_nothing(scratch: Database) -> None:
    """The new table refuses the old worker's claim; two workers would pay for the same images."""
    scratch.connection.execute(PLAIN.sql.encode())
    scratch.migrate()
    with pytest.raises(psycopg.errors.CheckViolation):
        claim = f"{UPDATE} status = 'processing', \"lockedBy\" = 'old', \"lockedAt\" = now() where id = 1"
        scratch.connection.execute(claim.encode())


def test_the_way_back_gives_the_old_worker_its_table(scratch: Database) -> None:
    """By the page's statements the old table has its name again, with every row as it was."""
    scratch.connection.execute(PLAIN.sql.encode())
    before = catalog.rows(scratch.connection)
    scratch.migrate()
    page = (SQL.parent / "docs" / "migrate.md").read_text()
    scratch.connection.execute(page.split("```sql way-back\n")[1].split("```")[0].encode())
    assert catalog.rows(scratch.connection) == before


# Types a list may have had, and per row what was in it and what it becomes.
LISTS: dict[str, list[tuple[str, list[str]]]] = {
    "text": [
        ('["a", "b"]', ["a", "b"]),
        ("{a,b}", ["a", "b"]),
        ("https://a.com/1, https://a.com/2", ["https://a.com/1", "https://a.com/2"]),
        ("one, two", ["one, two"]),
        (" ", []),
    ],
    "text[]": [("{a}", ["a"]), ("{}", [])],
    "jsonb": [("null", []), ('"[\\"a\\"]"', ["a"]), ('"a"', ["a"]), ('["a"]', ["a"])],
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_are_read_however_they_were_kept(scratch: Database, kind: str) -> None:
    """A list of any type and spelling becomes a JSON array; a missing list becomes an empty one."""
    values = [f"{UPDATE} styles = '{value}' where id = {i};" for i, (value, _) in enumerate(LISTS[kind], 1)]
    after = f"alter table photo_generation_queue add styles {kind}; {' '.join(values)}"
    scratch.connection.execute(replace(PLAIN, after=after).sql.encode())
    scratch.migrate()
    expected = [becomes for _, becomes in LISTS[kind]] + [[]] * 6
    assert [row["styles"] for row in catalog.rows(scratch.connection)] == expected[:6]


def test_no_superuser_is_needed(scratch: Database) -> None:
    """The owner of the table can migrate if it may create schemas, as `postgres` may on Supabase."""
    scratch.connection.execute("""
        do $$ begin
          if to_regrole('app_owner') is null then create role app_owner; end if;
          execute format('grant create, temporary on database %I to app_owner', current_database());
        end $$;
        grant all on schema public, storage to app_owner;
        grant all on all tables in schema storage to app_owner;
        set role app_owner""")
    scratch.connection.execute(PLAIN.sql.encode())
    scratch.migrate()
    assert len(catalog.rows(scratch.connection)) == 6


def test_psql_migrates_as_the_page_says(scratch: Database) -> None:
    """`psql -f` reports; with PGOPTIONS as printed it migrates; another value is refused."""
    scratch.connection.execute(PLAIN.sql.encode())
    file = str(SQL / "migrate_old_queue.sql")
    assert scratch.psql("-f", file).stdout.startswith("next|rename|")
    page = (SQL.parent / "docs" / "migrate.md").read_text()
    (options,) = re.findall(r"PGOPTIONS='(.*?)'", page)
    assert scratch.psql("-f", file, options=options).stdout.startswith("next|done: rename|")
    refused = scratch.psql("-f", file, options=options.replace("apply", "aply"))
    assert "HINT:  Set it to apply" in refused.stderr
