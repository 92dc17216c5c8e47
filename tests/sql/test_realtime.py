"""Realtime publishes batches, jobs and photos, nothing else, and only if it exists."""

from __future__ import annotations

import pytest

from tests.support.databases import Database
from tests.support.queue_sql import Connection

OURS = ["photo_generation_batches", "photo_generation_photos", "photo_generation_queue"]
MEMBERS = """
    select schemaname, tablename from pg_publication_tables where pubname = 'supabase_realtime'
    order by tablename"""


def members(connection: Connection) -> list[tuple[str, str]]:
    """The publication's tables."""
    return [(row["schemaname"], row["tablename"]) for row in connection.execute(MEMBERS).fetchall()]


def test_the_stack_publishes_the_three_tables(db: Connection) -> None:
    """Exactly these tables of schema public are published, as in a Supabase project with a publication."""
    assert members(db) == [("public", name) for name in OURS]


def test_internals_are_not_published(db: Connection) -> None:
    """Nothing of the schema `generation` leaves the database through the log."""
    rows = db.execute("select from pg_publication_tables where schemaname = 'generation'").fetchall()
    assert rows == []


COLUMNS = """
    select c.relname || '.' || a.attname as name,
      has_column_privilege('authenticated', c.oid, a.attnum, 'select') as may_select,
      exists (
        select from pg_publication_tables as t
        where t.pubname = 'supabase_realtime' and t.schemaname = n.nspname and t.tablename = c.relname
          and a.attname = any (t.attnames)
      ) as is_published
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where n.nspname in ('public', 'generation') and c.relkind = 'r'"""


def test_the_columns_that_users_may_select_are_published_and_no_others(db: Connection) -> None:
    """A column that is published but may not be selected would leave the database through the log."""
    columns = db.execute(COLUMNS).fetchall()
    published = {row["name"] for row in columns if row["is_published"]}
    assert published == {row["name"] for row in columns if row["may_select"]}
    assert {name.partition(".")[0] for name in published} == set(OURS)


@pytest.mark.parametrize("before", ["", "photo_generation_queue"])
def test_installing_again_adds_what_is_missing(installed: Database, before: str) -> None:
    """A table that is already published causes no error, and a second installation changes nothing."""
    assert members(installed.connection) == []
    installed.connection.execute("create publication supabase_realtime")
    if before:
        installed.connection.execute(
            f"alter publication supabase_realtime add table public.{before}".encode()
        )
    for _ in range(2):
        installed.install()
        assert [name for _, name in members(installed.connection)] == OURS


PUBLISHED = """
    select pubinsert, pubupdate, pubdelete, pubtruncate from pg_publication
    where pubname = 'supabase_realtime'"""


def published(connection: Connection) -> list[bool]:
    """Whether inserts, updates, deletes and truncates are published."""
    (row,) = connection.execute(PUBLISHED).fetchall()
    return list(row.values())


def test_nobody_is_told_of_rows_that_others_deleted(db: Connection, scratch: Database) -> None:
    """Realtime sends deleted ids to every subscriber, past row-level security, so none are published."""
    assert published(db) == [True, True, False, False]
    scratch.connection.execute("create publication supabase_realtime")
    for _ in range(2):
        scratch.install()
        assert published(scratch.connection) == [True, True, False, False]


def test_tables_of_the_app_keep_their_deletes(scratch: Database) -> None:
    """The setting is of the whole publication: where the app has tables in it, it stays as the app had it."""
    scratch.connection.execute("create table public.notes (id bigint primary key)")
    scratch.connection.execute("create publication supabase_realtime for table public.notes")
    scratch.install()
    assert published(scratch.connection) == [True, True, True, True]


def test_a_publication_of_everything_is_left_alone(scratch: Database) -> None:
    """One that publishes all tables has these as well, and takes none by name."""
    scratch.connection.execute("create publication supabase_realtime for all tables")
    scratch.install()
    rows = scratch.connection.execute("select puballtables from pg_publication").fetchall()
    assert [row["puballtables"] for row in rows] == [True]
