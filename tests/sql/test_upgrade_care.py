"""What the upgrade leaves alone, what it refuses, and that a refusal or a failure changes nothing."""

from dataclasses import replace

import psycopg
import pytest

from tests.support import catalog
from tests.support.databases import Database
from tests.support.old_tables import DRIZZLE, ENUM, OLD_TABLES, OldTable

pytest_plugins = ("tests.support.database_fixtures",)

AROUND = OLD_TABLES["an app around it"]
PLAIN = OldTable(DRIZZLE, before=ENUM)
UPDATE = "update photo_generation_queue set"

# What stands in the way: the SQL that makes it, and the object and difference that are reported.
OBSTACLES = {
    "a status nobody knows": (
        "",
        f"{UPDATE} status = 'stuck' where id = 1;",
        "rows of",
        "known ((null), stuck)",
    ),
    "no status": (
        "",
        f"{UPDATE} status = null where id = 4;",
        "rows of",
        "2 rows: have a status that is not known",
    ),
    "no user": (
        "",
        'alter table photo_generation_queue alter "userId" drop not null;'
        f'{UPDATE} "userId" = null where id = 2;',
        "rows of",
        "1 row: belong to no user (id 2)",
    ),
    "a batch id with a slash": (
        "",
        f"{UPDATE} \"batchId\" = 'a/b' where id = 6;",
        "rows of",
        "in Storage (id 6)",
    ),
    "no images": ("", f'{UPDATE} "numImagesPerExample" = 0 where id = 3;', "rows of", "fewer than 1"),
    "a list that is an object": (
        "",
        f"{UPDATE} backgrounds = '{{\"a\": 1}}' where id = 1;",
        "rows of",
        "have a list",
    ),
    "a worker at work": (
        "",
        f"{UPDATE} \"lockedAt\" = now() at time zone 'UTC' where id = 2;",
        "rows of",
        "1 row: were locked within the last five minutes (id 2)",
    ),
    "a batch of several users": (
        "",
        f'{UPDATE} "batchId" = 7 where id < 6;',
        "batch 7",
        "jobs of several users: 1, 2",
    ),
    "a priority out of range": ("", f"{UPDATE} priority = 40000;", ".priority", "40000"),
    "a view": (
        "",
        'create view app_view as select id, "userId" from photo_generation_queue;',
        "rule _RETURN on view public.app_view",
        "FROM public.photo_generation_queue",
    ),
    "a trigger on a column": (
        "",
        """
        create function app_f() returns trigger language plpgsql as 'begin return new; end';
        create trigger t after update of "lockedBy" on photo_generation_queue
          for each row execute function app_f();""",
        "trigger t on table",
        "reads lockedBy",
    ),
    "a required column": (
        "",
        'alter table photo_generation_queue alter "updatedAt" drop default, alter "updatedAt" set not null;',
        '."updatedAt"',
        "required and without a default",
    ),
    "another primary key": (
        "",
        "alter table photo_generation_queue drop constraint photo_generation_queue_pkey, "
        "add primary key (id, credits);",
        "photo_generation_queue_pkey",
        "PRIMARY KEY (id, credits)",
    ),
    "a function of our name": (
        "create function enqueue_generation_batch(a text) returns text language sql as 'select a';",
        "",
        "function public.enqueue_generation_batch(a text)",
        "of the same name",
    ),
    "a schema of our name": (
        "create schema generation; create table generation.a ();",
        "",
        "schema generation",
        "not ours",
    ),
    "a table of our name": (
        "create table photo_generation_batches (id integer primary key);",
        "",
        "public.photo_generation_batches",
        "not ours",
    ),
    "an index of our name": (
        "create table app_a (b text); create index photo_generation_queue_ready on app_a (b);",
        "",
        "public.photo_generation_queue_ready",
        "index of ours",
    ),
    "a public bucket": (
        "insert into storage.buckets (id, public) values ('generated-photos', true);",
        "",
        "bucket generated-photos",
        "is public",
    ),
    "a bucket in use": (
        "insert into storage.objects (bucket_id, name) values ('generated-photos', 'a.png');",
        "",
        "bucket generated-photos",
        "holds objects of the app",
    ),
}


def test_whatever_blocks_is_reported_at_once_and_refused(scratch: Database) -> None:
    """Each obstacle is a row of the report; told to upgrade, nothing is changed, the error names them all."""
    before, after, *_ = ("\n".join(part) for part in zip(*OBSTACLES.values(), strict=True))
    columns = DRIZZLE | {"status": "text", "batchId": "text", "backgrounds": "jsonb"}
    scratch.connection.execute(OldTable(columns, before=before, after=after).sql.encode())
    blocking = [finding for finding in scratch.report() if finding.blocking == "yes"]
    explained = set()
    for name, (_, _, thing, difference) in OBSTACLES.items():
        found = [one for one in blocking if thing in one.object and difference in one.difference]
        assert len(found) == 1, name
        explained.update(found)
    assert set(blocking) == explained
    state = catalog.schema(scratch.connection), catalog.rows(scratch.connection)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="nothing was changed") as refused:
        scratch.upgrade()
    assert all(one.action in (refused.value.diag.message_detail or "") for one in blocking)
    assert (catalog.schema(scratch.connection), catalog.rows(scratch.connection)) == state


def test_ids_that_are_uuids_are_refused(scratch: Database) -> None:
    """A uuid id cannot become a number; the report says so and where the other way is described."""
    columns = DRIZZLE | {"id": "uuid primary key default gen_random_uuid()"}
    scratch.connection.execute(OldTable(columns, before=ENUM).sql.encode())
    (blocking,) = (finding for finding in scratch.report() if finding.blocking == "yes")
    assert blocking.object == "public.photo_generation_queue.id"
    assert "Ids that are not numbers" in blocking.action
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        scratch.upgrade()


def test_locks_of_a_worker_that_is_surely_off_can_be_overridden(scratch: Database) -> None:
    """`apply_despite_locks` takes the jobs of a fresh lock back; nothing else is overridden by it."""
    fresh_lock = f"{UPDATE} \"lockedAt\" = now() at time zone 'UTC' where id = 2;"
    scratch.connection.execute(replace(PLAIN, after=fresh_lock).sql.encode())
    scratch.upgrade("apply_despite_locks")
    assert catalog.rows(scratch.connection)[1]["status"] == "pending"


def test_a_failure_in_the_middle_changes_nothing(scratch: Database) -> None:
    """The upgrade is one transaction: what fails while rows are fixed undoes the new types as well."""
    once = 'create unique index once on photo_generation_queue ("batchId", "lockedBy") nulls not distinct;'
    scratch.connection.execute(replace(PLAIN, after=f'{UPDATE} "lockedBy" = id; {once}').sql.encode())
    state = catalog.schema(scratch.connection), catalog.rows(scratch.connection)
    with pytest.raises(psycopg.errors.UniqueViolation):
        scratch.upgrade()
    assert (catalog.schema(scratch.connection), catalog.rows(scratch.connection)) == state


def test_no_superuser_is_needed(scratch: Database) -> None:
    """Whoever owns the table and may create schemas can upgrade, as `postgres` does on Supabase."""
    scratch.connection.execute("""
        do $$ begin
          if to_regrole('app_owner') is null then create role app_owner; end if;
          execute format('grant create, temporary on database %I to app_owner', current_database());
        end $$;
        grant all on schema public, storage to app_owner;
        grant all on all tables in schema storage to app_owner;
        set role app_owner""")
    scratch.connection.execute(PLAIN.sql.encode())
    assert scratch.upgrade()[0].difference == "no difference"
    assert scratch.report()[0].difference == "no difference"


def test_a_misspelt_setting_is_refused(scratch: Database) -> None:
    """Anything but the two ways of applying is an error, not a report that looks like one."""
    with pytest.raises(psycopg.errors.RaiseException, match="aply"):
        scratch.upgrade("aply")


def test_the_apps_own_things_stay(scratch: Database) -> None:
    """Its columns keep their values, its trigger does not fire but stays on, its references hold."""
    scratch.connection.execute(AROUND.sql.encode())
    before = [(row["updatedAt"], row["credits"]) for row in catalog.rows(scratch.connection)]
    scratch.upgrade()
    assert [(row["updatedAt"], row["credits"]) for row in catalog.rows(scratch.connection)] == before
    trigger = scratch.connection.execute("select tgenabled from pg_trigger where tgname = 'touch'").fetchone()
    assert trigger == {"tgenabled": "A"}
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="app_credits"):
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


def test_functions_of_an_earlier_version_are_replaced(scratch: Database) -> None:
    """A function of ours with other parameters or another result, which cannot be replaced, is dropped."""
    scratch.install()
    scratch.connection.execute("""
        drop function generation.virtual_time;
        create function generation.virtual_time(p_priority smallint) returns text
          language sql as 'select null::text';
        create function generation.roll_up(p_old text) returns void language sql as ''""")
    assert {finding.difference for finding in scratch.report()} > {"of another version"}
    assert [finding.difference for finding in scratch.upgrade()] == ["no difference"]


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
    "json": [('["a"]', ["a"]), ("null", [])],
    "jsonb": [("null", []), ('"[\\"a\\"]"', ["a"]), ('"a"', ["a"]), ('["a"]', ["a"])],
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_are_read_however_they_were_kept(scratch: Database, kind: str) -> None:
    """A list becomes a JSON array, from whatever type and spelling it had; none is an empty one."""
    values = [f"{UPDATE} styles = '{value}' where id = {i};" for i, (value, _) in enumerate(LISTS[kind], 1)]
    after = f"alter table photo_generation_queue add styles {kind}; {' '.join(values)}"
    scratch.connection.execute(replace(PLAIN, after=after).sql.encode())
    scratch.upgrade()
    expected = [becomes for _, becomes in LISTS[kind]] + [[]] * 6
    assert [row["styles"] for row in catalog.rows(scratch.connection)] == expected[:6]
