"""Databases for tests that compare schemas, and the SQL files, run as the docs say."""

import re
import secrets
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import DictRow

from local.install_sql import SQL
from local.stack.postgres import Postgres
from tests.support.installation import connect
from tests.support.queue_sql import Connection

# What every Supabase project has before any of this: three roles, and rights on whatever is made in `public`.
SUPABASE = """
    do $$ begin
      if to_regrole('anon') is null then create role anon nologin; end if;
      if to_regrole('authenticated') is null then create role authenticated nologin; end if;
      if to_regrole('service_role') is null then create role service_role nologin bypassrls; end if;
    end $$;
    grant usage on schema public to anon, authenticated, service_role;
    alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
    alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
    alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
    create schema storage;
    create table storage.buckets (
      id text primary key, name text, public boolean, file_size_limit bigint, allowed_mime_types text[]);
    create table storage.objects (bucket_id text, name text);"""
SWITCH = "-- set local generation.migrate = 'apply';"


# install.sql as it was: of the first day, before images were bound to batches, of 0.1.0, before migrations,
# with six of them.
EARLIER = Path(__file__).with_name("installations.tar.xz")
VERSIONS = ("2026-11-24", "2026-11-25", "0.1.0", "before-migrations", "schema-6")
TODAY = "install.sql"


class Finding(NamedTuple):
    """One row of what migrate_old_queue.sql reports."""

    what: str
    found: str
    becomes: str
    blocking: str


class Database:
    """A database with Supabase's own objects, and a connection to it."""

    def __init__(self, postgres: Postgres, name: str) -> None:
        self.postgres = postgres
        self.url = re.sub(r"/[^/]*$", f"/{name}", postgres.db_url)
        self.connection: Connection = connect(self.url)
        self.connection.execute("set lock_timeout = '10s'; set statement_timeout = '20s'")

    def paste(self, text: str) -> list[Finding]:
        """Runs a file in one go, as the SQL editor does; the rows of its last result that has any."""
        found: list[DictRow] = []
        try:
            cursor = self.connection.execute(text.encode())
            while True:
                found = (cursor.fetchall() if cursor.description else []) or found
                if not cursor.nextset():
                    break
        finally:
            self.connection.rollback()
        return [Finding(**row) for row in found if set(row) == set(Finding._fields)]

    def install(self) -> None:
        """Pastes install.sql."""
        self.paste((SQL / "install.sql").read_text())

    def install_earlier(self, name: str) -> None:
        """Pastes install.sql as it was in an earlier version."""
        with tarfile.open(EARLIER) as archive:
            file = archive.extractfile(f"{name}.sql")
            assert file is not None
            self.paste(file.read().decode())

    def report(self) -> list[Finding]:
        """Runs migrate_old_queue.sql unchanged."""
        return self.paste((SQL / "migrate_old_queue.sql").read_text())

    def step(self) -> list[Finding]:
        """Pastes migrate_old_queue.sql with its one line changed."""
        text = (SQL / "migrate_old_queue.sql").read_text()
        assert text.count(SWITCH) == 1
        return self.paste(text.replace(SWITCH, SWITCH.removeprefix("-- ")))

    def migrate(self) -> None:
        """Migrates as docs/migrate.md says."""
        self.step()
        self.install()
        self.step()

    def psql(self, *arguments: str, options: str = "") -> subprocess.CompletedProcess[str]:
        """The output of psql, called as sql/README.md says."""
        command = [str(self.postgres.bin / "psql"), "-qAtX", self.url, "-v", "ON_ERROR_STOP=1", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={"PGOPTIONS": options})


@contextmanager
def database(postgres: Postgres, installed: str = "") -> Iterator[Database]:
    """A new database, dropped at the end; `installed` is TODAY or one of VERSIONS."""
    name = f"scratch_{secrets.token_hex(6)}"
    with psycopg.connect(postgres.db_url, autocommit=True) as server:
        _copy(server, _template(server, postgres, installed), name)
        try:
            scratch = Database(postgres, name)
            with scratch.connection:
                yield scratch
        finally:
            server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _template(server: psycopg.Connection[Any], postgres: Postgres, installed: str) -> str:
    """The database to copy, made when it is first needed: a copy takes a tenth of an installation's time.

    It gets its name last, so that no test copies one whose making has failed.
    """
    name, unfinished = f"with_{installed or 'nothing'}", "unfinished_template"
    if server.execute("select from pg_database where datname = %s", [name]).rowcount:
        return name
    server.execute(f"drop database if exists {unfinished} with (force)".encode())
    _copy(server, "template1", unfinished)
    made = Database(postgres, unfinished)
    with made.connection:
        made.connection.execute(SUPABASE)
        if installed == TODAY:
            made.install()
        elif installed:
            made.install_earlier(installed)
    server.execute(f"alter database {unfinished} with allow_connections false".encode())
    server.execute(sql.SQL("alter database {} rename to {}").format(*map(sql.Identifier, (unfinished, name))))
    return name


def _copy(server: psycopg.Connection[Any], template: str, name: str) -> None:
    names = sql.Identifier(name), sql.Identifier(template)
    server.execute(sql.SQL("create database {} with template {}").format(*names))
