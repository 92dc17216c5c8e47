"""An installation that cannot work says why in words, fails, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from local.install_sql import SQL
from local.stack.postgres import Postgres
from tests.support.installation import data_folder

ROOT = SQL.parent
SCHEMAS = "'{pg_catalog,information_schema,pg_toast}'::regnamespace[]"
RELATIONS = f"select count(*) from pg_class where relnamespace <> all ({SCHEMAS})"
COMMANDS = re.findall(r"^(psql .*?)(?:  +#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def plain() -> Iterator[Postgres]:
    """A PostgreSQL without Supabase's roles."""
    with data_folder() as folder, Postgres(folder, durable=False) as postgres:
        yield postgres


def shell(postgres: Postgres, command: str) -> subprocess.CompletedProcess[str]:
    """The command, as typed in the clone's folder with DATABASE_URL set."""
    path = f"{postgres.bin}:{os.environ['PATH']}"
    env = {"PATH": path, "DATABASE_URL": postgres.db_url, "PSQLRC": os.devnull}
    return subprocess.run(["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True)


def test_another_database_is_refused_in_words(plain: Postgres) -> None:
    """A wrong DATABASE_URL gives one error that says so and what to do, and exit code 3."""
    command = next(command for command in COMMANDS if "-f sql/install.sql" in command)
    done = shell(plain, command)
    assert done.returncode == 3
    assert len(re.findall("ERROR:", done.stderr)) == 1
    assert "This is not a Supabase database: it has no role anon, authenticated, service_role." in done.stderr
    assert "HINT:  Use the connection string from the project's dashboard" in done.stderr
    assert plain.psql(RELATIONS) == "0"


def test_psql_without_the_flag_does_not_end_in_success(plain: Postgres) -> None:
    """If psql continues after the error, nothing is installed, and its last line says so."""
    done = shell(plain, 'psql "$DATABASE_URL" -f sql/install.sql')
    *_, error, hint, _ = [line for line in done.stderr.splitlines() if not line.startswith("CONTEXT")] + [""]
    assert "ERROR:  Nothing was installed; the first error above says why." in error
    assert hint.startswith("HINT:  psql -v ON_ERROR_STOP=1")
    assert plain.psql(RELATIONS) == "0"
