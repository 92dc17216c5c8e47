"""docs/backup.md is true: a dump restored in another project opens nothing, and the queue continues."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.stack.postgres import Postgres
from tests.sql.test_callers import acting, error_of, ours
from tests.support import catalog
from tests.support.access_table import FUNCTIONS
from tests.support.databases import TODAY, Database, database
from tests.support.queue_sql import Connection, Queue

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^ *```(.+)\n((?:.*\n)*?) *```$", re.MULTILINE)
BLOCKS = dict(FENCE.findall((ROOT / "docs" / "backup.md").read_text()))
TABLES = (
    "public.photo_generation_queue",
    "public.photo_generation_batches",
    "public.photo_generation_photos",
)
SEALED = "alter table storage.objects enable row level security"


def execute(
    postgres: Postgres, folder: Path, block: str, path: str = "", **urls: str
) -> subprocess.CompletedProcess[str]:
    """What happens when one block of the page is run in a folder that has the repository's files."""
    script = BLOCKS[f"sh {block}"].replace("sql/install.sql", str(ROOT / "sql" / "install.sql"))
    environment = {"PATH": f"{path}:{postgres.bin}:{os.environ['PATH']}", **urls}
    return subprocess.run(
        ["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True
    )


def run(postgres: Postgres, folder: Path, block: str, **urls: str) -> None:
    """One block of the page, which succeeds."""
    done = execute(postgres, folder, block, **urls)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def source(postgres: Postgres) -> Iterator[Database]:
    """A project with the queue, in which two users have ordered and one of them has a photo."""
    with database(postgres, TODAY) as made:
        queue = Queue(made.connection).open_gate()
        queue.record(queue.claimed(user_id="user-1", images=2), 0)
        queue.enqueue("user-2")
        yield made


@pytest.fixture(scope="module")
def restored(
    postgres: Postgres, source: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, Path]]:
    """Another project with Supabase's default grants and the restored dump, not installed again yet."""
    folder = tmp_path_factory.mktemp("backup")
    with database(postgres) as new:
        new.connection.execute(SEALED)
        run(postgres, folder, "backup", DATABASE_URL=source.url)
        run(postgres, folder, "restore", NEW_DATABASE_URL=new.url)
        yield new, folder


def rows(connection: Connection) -> list[Any]:
    """Every row that matters to a customer."""
    return [catalog.rows(connection, table) for table in TABLES]


def findings(made: Database) -> list[dict[str, Any]]:
    """The database's findings about its own rights."""
    answer = Queue(made.connection).call("generation_access_findings")
    return list(answer["findings"])


def test_the_restored_grants_are_open(restored: tuple[Database, Path]) -> None:
    """The page's warning is true: after a restore everybody may call every function."""
    granted = "select has_function_privilege('anon', 'erase_generation_user(text)', 'execute') as may"
    assert Queue(restored[0].connection).one(granted)["may"]
    assert len(findings(restored[0])) > len(FUNCTIONS)


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_an_attacker_with_the_publishable_key_changes_nothing(
    source: Database, restored: tuple[Database, Path], role: str
) -> None:
    """Before the installation no function obeys anonymous callers or strangers, no foreign row shows."""
    new = restored[0]
    before = rows(new.connection)
    assert before == rows(source.connection)
    for row in ours(new):
        if row["schema"] == "public" and role not in FUNCTIONS[row["name"]].callers:
            with acting(new.connection, role, "stranger") as connection:
                call = f"select public.{row['name']}({', '.join(row['arguments'])})"
                error = error_of(connection, call)
            assert error is not None and error.sqlstate == "42501", row["signature"]
    for table in TABLES:
        with acting(new.connection, role, "stranger") as connection:
            assert connection.execute(f"select from {table}".encode()).fetchall() == []
            assert connection.execute(f"delete from {table}".encode()).rowcount == 0
    assert rows(new.connection) == before


def test_install_closes_it_and_work_goes_on(
    postgres: Postgres, source: Database, restored: tuple[Database, Path]
) -> None:
    """After the installation nothing differs from a fresh one, and open jobs continue."""
    new, folder = restored
    run(postgres, folder, "install", NEW_DATABASE_URL=new.url)
    assert catalog.schema(new.connection) == catalog.schema(source.connection)
    assert findings(new) == []
    queue = Queue(new.connection).open_gate()
    queue.call("release_stale_generation_jobs", p_older_than_seconds=0)
    missing = {job["userId"]: job["missing"] for job in queue.run().claim()}
    assert missing == {"user-1": [1], "user-2": [0]}
    assert queue.enqueue("user-3")["created"]


def every_row(connection: Connection) -> dict[str, list[Any]]:
    """The rows of all tables, those of the schema `generation` included."""
    found = connection.execute(
        """select format('%I.%I', schemaname, tablename) as name from pg_tables
           where schemaname in ('generation', 'public') order by name"""
    ).fetchall()
    texts = {row["name"]: f"select t::text as row from {row['name']} as t order by 1" for row in found}
    return {name: connection.execute(text.encode()).fetchall() for name, text in texts.items()}


@pytest.mark.parametrize("way", ["plain", "schema-then-data", "data-only"])
def test_each_way_restores_every_row(postgres: Postgres, source: Database, tmp_path: Path, way: str) -> None:
    """Caps, prices and migrations come with the orders, no number differs, and new orders have free ids."""
    source.connection.execute("select set_generation_limits('{\"dollarsPerDay\": 7}')")
    source.connection.execute("delete from generation.prices where model = 'gemini-3-pro-image'")
    with database(postgres) as new:
        if way == "data-only":
            new.install()
            Queue(new.connection).call("generation_queue_stats")
        run(postgres, tmp_path, way, DATABASE_URL=source.url, NEW_DATABASE_URL=new.url)
        restored = every_row(new.connection)
        marked = restored.pop("generation.changed_minutes")
        assert restored == {k: v for k, v in every_row(source.connection).items() if k in restored}
        assert len(restored) > 15 and len(marked) < 10
        run(postgres, tmp_path, "install", NEW_DATABASE_URL=new.url)
        assert catalog.schema(new.connection) == catalog.schema(source.connection)
        queue = Queue(new.connection)
        for name in ("ready", "windows"):
            told = [Queue(made.connection).call("generation_queue_stats")[name] for made in (source, new)]
            assert told[0] == told[1]
        assert queue.enqueue("user-3")["created"]


def test_a_restore_over_other_orders_changes_nothing(
    postgres: Postgres, source: Database, tmp_path: Path
) -> None:
    """The restore fails at the first id that differs; caps, prices and migrations stay as well."""
    with database(postgres, TODAY) as new:
        Queue(new.connection).enqueue("user-4")
        before = every_row(new.connection)
        urls = {"DATABASE_URL": source.url, "NEW_DATABASE_URL": new.url}
        done = execute(postgres, tmp_path, "data-only", **urls)
        assert done.returncode != 0 and "duplicate key" in done.stderr
        assert every_row(new.connection) == before


# A dump whose connection is lost: half of it, up to the end of a statement, and an error.
LOST = """#!/bin/sh
{bin}/pg_dump "$@" > whole.dump
awk "NR > $(wc -l < whole.dump) / 2 && /^$/ {{ exit }} 1" whole.dump
exit 1"""


@pytest.mark.parametrize("way", ["schema-then-data", "data-only"])
def test_a_dump_that_fails_half_way_restores_nothing(
    postgres: Postgres, source: Database, tmp_path: Path, way: str
) -> None:
    """The new project stays as it was."""
    (tmp_path / "pg_dump").write_text(LOST.format(bin=postgres.bin))
    (tmp_path / "pg_dump").chmod(0o755)
    with database(postgres, TODAY if way == "data-only" else "") as new:
        before = catalog.schema(new.connection), every_row(new.connection)
        urls = {"DATABASE_URL": source.url, "NEW_DATABASE_URL": new.url}
        execute(postgres, tmp_path, way, str(tmp_path), **urls)
        assert (catalog.schema(new.connection), every_row(new.connection)) == before


# As on Supabase: people's role is no superuser, and somebody above it has default privileges in `public`.
PROJECT = """
    create role project_admin;
    create role project_owner login bypassrls password 'secret'"""
ADMINS = "alter default privileges for role project_admin in schema public grant all on tables to anon"
GRANTED = "grant create on schema public to project_owner"


def test_the_restore_needs_no_superuser(postgres: Postgres, source: Database, tmp_path: Path) -> None:
    """A Supabase project's role restores all rows, although the dump contains other owners' rights."""
    before = rows(source.connection)
    source.connection.execute(PROJECT)
    try:
        source.connection.execute(ADMINS)
        with database(postgres) as new:
            new.connection.execute(f"{ADMINS}; {GRANTED}".encode())
            name = new.connection.info.dbname
            new.connection.execute(f"grant create on database {name} to project_owner".encode())
            url = f"postgresql://project_owner:secret@127.0.0.1:{postgres.port}/{name}"
            run(postgres, tmp_path, "backup", DATABASE_URL=source.url)
            run(postgres, tmp_path, "restore", NEW_DATABASE_URL=url)
            assert rows(new.connection) == before
    finally:
        source.connection.execute("drop owned by project_admin; drop role project_admin, project_owner")


def test_the_page_names_check() -> None:
    """The page ends with the command that checks whether all is closed."""
    assert BLOCKS["sh check"].strip() == "python -m worker check"
