"""What tests use of the one stack of their session: a connection, the tables as installed, users."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from supabase import AsyncClient

from local.stack.stack import DATA, Stack
from tests.support.queue_sql import NO_LIMITS

MEMORY = Path("/dev/shm")  # Linux's file system in memory
ROOM = 2 << 30  # bytes; four stacks take less than half of it
MODELS = (
    "gemini-2.5-flash-image",
    "gemini-3.1-flash-image",
    "gemini-nano-banana-2.1",
    "gemini-3-pro-image",
    "model",
)


class User(NamedTuple):
    """Someone signed up in the stack, and a client that acts as them."""

    id: str
    client: AsyncClient


@contextlib.contextmanager
def data_folder() -> Iterator[Path]:
    """A folder for a server's data, removed at the end; in memory if there is room.

    On a disk a server would spend half of its time on creating the files of tables and databases.
    """
    DATA.mkdir(exist_ok=True)
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
    folder = Path(tempfile.mkdtemp(prefix="generation-tests-", dir=MEMORY if in_memory else DATA))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Rows:
    """The rows this project's tables have in a fresh installation: seeds and settings only."""

    TABLES = """
        select format('%I.%I', n.nspname, c.relname) as name
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p') and not c.relispartition
          and (n.nspname = 'generation' or n.nspname = 'public' and c.relname like 'photo\\_generation\\_%')
        order by 1"""
    SEEDS = """
        select format('insert into {table} select * from unnest(%L::{table}[])', array_agg(t)) as text
        from {table} t having count(*) > 0"""
    SEQUENCES = """
        select format('select setval(%L, %s, false)', format('%I.%I', schemaname, sequencename), start_value)
          as text
        from pg_sequences where schemaname in ('generation', 'public')"""
    EMPTY = """
        set local lock_timeout = '10s'; set local session_replication_role = replica;
        lock table {tables} in access exclusive mode;
        do $$ begin
          if greatest({sizes}) > 100000 then truncate {tables}; else {deletes}; end if;
        end $$"""

    def __init__(self, connection: psycopg.Connection[DictRow]) -> None:
        tables = [row["name"] for row in connection.execute(self.TABLES)]
        empty = self.EMPTY.format(
            tables=", ".join(tables),
            sizes=", ".join(f"pg_relation_size('{table}')" for table in tables),
            deletes="; ".join(f"delete from {table}" for table in tables),  # twenty times as fast
        )
        queries = [self.SEQUENCES, *(self.SEEDS.format(table=table) for table in tables)]
        found = [row["text"] for query in queries for row in connection.execute(query.encode())]
        self._script = ";".join([empty, *found]).encode() if tables else b""

    def restore(self, connection: psycopg.Connection[DictRow]) -> None:
        """Makes all tables what they were, sequences included, in one transaction that fires no trigger."""
        connection.execute(self._script)


def connect(db_url: str) -> psycopg.Connection[DictRow]:
    """A superuser's connection: autocommit, rows as dictionaries."""
    return psycopg.connect(db_url, autocommit=True, row_factory=dict_row, prepare_threshold=None)


def prepare(connection: psycopg.Connection[DictRow]) -> None:
    """Opens what tests of other things would wait for or be refused by: rates, limits, hosts, announced ends.

    Announced ends come nearer every day: only tests about them have any.
    """
    for model in MODELS:
        connection.execute("select set_generation_rate(%s, 100000, 1000)", [model])
    connection.execute('update generation.models set "announcedEnd" = null')
    connection.execute("select set_generation_limits(%s)", [Jsonb({"maxRuns": 1000, **NO_LIMITS})])
    connection.execute("select add_generation_photo_host('*')")


class Installation:
    """A started stack, what its tables held before any test, and a connection that tests use in turn."""

    # What `discard all` does, but for plans: a new connection compiles and plans each function again.
    FORGET = """
        close all; unlisten *; select pg_advisory_unlock_all(); discard temp; discard sequences;
        set session authorization default; reset all"""

    def __init__(self, stack: Stack, connection: psycopg.Connection[DictRow]) -> None:
        prepare(connection)
        self.stack, self.rows, self._connection = stack, Rows(connection), connection

    @contextlib.contextmanager
    def connection(self) -> Iterator[psycopg.Connection[DictRow]]:
        """The connection, in the state of a new one; another one after a test that has closed it."""
        try:
            yield self._connection
        finally:
            try:
                self._connection.rollback()
                self._connection.execute(self.FORGET)
            except psycopg.OperationalError:
                self._connection = connect(self.stack.db_url)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()
