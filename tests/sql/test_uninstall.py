"""sql/uninstall.sql removes what install.sql created, and customers' data only on request."""

from __future__ import annotations

import re
from typing import Any

import pytest

from local.install_sql import SQL
from tests.support import catalog
from tests.support.databases import Database
from tests.support.queue_sql import USER, Connection, Queue

WITH_TABLES = "-c generation.uninstall=with_tables"
TABLES = ("photo_generation_batches", "photo_generation_queue", "photo_generation_photos")
POLICIES = "select polname from pg_policy where polrelid = 'storage.objects'::regclass"
CRON = """
    create schema cron;
    create table cron.job (jobid bigint primary key, jobname text);
    create function cron.unschedule(bigint) returns boolean
    language sql as 'delete from cron.job where jobid = $1; select true';
    insert into cron.job
    values (1, 'generation-worker'), (2, 'generation-worker-sweep'), (3, 'the app''s own')"""


def uninstall(scratch: Database, options: str = "") -> str:
    """The errors that psql prints for the script; empty if it succeeded."""
    done = scratch.psql("-f", str(SQL / "uninstall.sql"), options=options)
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr


def used(made: Database) -> Queue:
    """A queue with a finished job of two photos and a job that waits."""
    queue = Queue(made.connection).open_gate()
    queue.enqueue(images=2)
    queue.complete(queue.run().claim()[0])
    queue.enqueue()
    return queue


def rows(connection: Connection) -> dict[str, list[Any]]:
    """Every row of the customers' tables."""
    return {table: catalog.rows(connection, f"public.{table}") for table in TABLES}


def test_nothing_is_left_when_the_tables_go_too(scratch: Database) -> None:
    """If the tables are removed too, everything is as before the installation; it can be repeated."""
    before = catalog.schema(scratch.connection)
    scratch.install()
    used(scratch)
    for _ in range(2):
        assert uninstall(scratch, WITH_TABLES) == ""
        assert catalog.schema(scratch.connection) == before
        assert scratch.connection.execute(POLICIES).fetchall() == []


def test_realtime_tells_of_deletes_again(scratch: Database) -> None:
    """The app's next table in the publication is published whole, as Supabase made it."""
    published = "select pubdelete, pubtruncate from pg_publication where pubname = 'supabase_realtime'"
    scratch.connection.execute("create publication supabase_realtime")
    scratch.install()
    used(scratch)
    for options, expected in (("", [False, False]), (WITH_TABLES, [True, True])):
        assert uninstall(scratch, options) == ""
        (row,) = scratch.connection.execute(published).fetchall()
        assert list(row.values()) == expected


def test_the_editors_switch_is_the_files_own_line(scratch: Database) -> None:
    """In the SQL editor the same is done by deleting two dashes."""
    before = catalog.schema(scratch.connection)
    scratch.install()
    used(scratch)
    text = (SQL / "uninstall.sql").read_text()
    changed, switches = re.subn(r"(?m)^begin;\n-- (set local)", r"begin;\n\1", text)
    scratch.paste(changed)
    assert switches == 1
    assert catalog.schema(scratch.connection) == before


def test_users_keep_their_orders_and_photos(installed: Database) -> None:
    """By default no customer's row is removed, and users still read only their own rows."""
    queue = used(installed)
    before = rows(installed.connection)
    assert uninstall(installed) == ""
    assert rows(installed.connection) == before
    assert [len(before[table]) for table in TABLES] == [2, 2, 2]
    kinds = {kind for kind, name in catalog.schema(installed.connection) if kind in ("function", "schema")}
    assert kinds == set()
    assert [row["polname"] for row in installed.connection.execute(POLICIES).fetchall()] == [
        "own generated photos"
    ]
    for user, photos in ((USER, 2), ("somebody-else", 0)):
        with queue.connection.transaction():
            queue.connection.execute("set local role authenticated")
            queue.connection.execute(
                "select set_config('request.jwt.claims', jsonb_build_object('sub', %s::text)::text, true)",
                [user],
            )
            assert len(catalog.rows(queue.connection, "public.photo_generation_photos")) == photos


def test_installing_again_goes_on_with_what_waits(installed: Database) -> None:
    """After a return the schema is a new installation's, and the job that waited is claimed."""
    queue = used(installed)
    schema, kept = catalog.schema(installed.connection), rows(installed.connection)
    uninstall(installed)
    installed.install()
    assert catalog.schema(installed.connection) == schema
    assert rows(installed.connection) == kept
    queue.open_gate()
    assert len(queue.run().claim()) == 1


def test_the_clocks_go_and_the_apps_own_schedules_stay(installed: Database) -> None:
    """No schedule calls functions that are gone; another's is not touched."""
    used(installed)
    installed.connection.execute(CRON)
    uninstall(installed)
    jobs = installed.connection.execute("select jobname from cron.job").fetchall()
    assert [job["jobname"] for job in jobs] == ["the app's own"]


def test_an_erasure_is_not_cut_short(installed: Database) -> None:
    """While an erased user may have photos in Storage nothing is removed: only the schema knows of them."""
    queue = used(installed)
    queue.call("erase_generation_user", p_user_id=USER)
    before = catalog.schema(installed.connection)
    refused = uninstall(installed, WITH_TABLES)
    assert "The photos of 1 erased users are still being removed from Storage." in refused
    assert "HINT:  Let the sweep finish: python -m worker sweep." in refused
    assert catalog.schema(installed.connection) == before


@pytest.mark.parametrize("table", ["public.photo_generation_photos", "generation.runs"])
def test_what_the_app_built_on_it_is_not_dropped(installed: Database, table: str) -> None:
    """A view of the app's own over our tables makes it refuse, with the view's name, and change nothing."""
    used(installed)
    installed.connection.execute(f"create view public.app_view as select id from {table}".encode())
    before = catalog.schema(installed.connection)
    assert "app_view depends on table" in uninstall(installed, WITH_TABLES)
    assert catalog.schema(installed.connection) == before


def test_a_table_of_the_apps_own_in_our_schema_is_not_dropped(installed: Database) -> None:
    """A foreign table in the schema `generation` makes it refuse, naming the table."""
    used(installed)
    installed.connection.execute("create table generation.app_drafts as select 1 as id")
    assert "table generation.app_drafts depends on schema generation" in uninstall(installed, WITH_TABLES)
    assert catalog.rows(installed.connection, "generation.app_drafts")
    assert catalog.rows(installed.connection, "public.photo_generation_photos")


def test_a_queue_that_was_never_ours_is_not_dropped(scratch: Database) -> None:
    """In a database with an old queue and no installation, even the removal of tables removes nothing."""
    scratch.connection.execute('create table public.photo_generation_queue as select 1 as id, 1 as "userId"')
    before = catalog.schema(scratch.connection)
    assert uninstall(scratch, WITH_TABLES) == ""
    assert catalog.schema(scratch.connection) == before


def test_a_function_of_the_apps_own_is_not_dropped(installed: Database) -> None:
    """A function that is named as ours, with other parameters, stays."""
    used(installed)
    installed.connection.execute(
        "create function public.generation_models(app integer) returns integer language sql as 'select 1'"
    )
    assert uninstall(installed, WITH_TABLES) == ""
    assert installed.connection.execute("select public.generation_models(1)").fetchall()


def test_another_word_is_refused(installed: Database) -> None:
    """A mistyped mode is no mode."""
    used(installed)
    assert "generation.uninstall is tables" in uninstall(installed, "-c generation.uninstall=tables")
