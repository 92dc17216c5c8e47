"""The generated files equal their parts and install what these install; the README of the SQL is complete."""

import re
import subprocess
import sys

import pytest

from local.install_sql import FILES, SQL, functions, install_sql
from local.stack.postgres import Postgres
from tests.support import catalog
from tests.support.databases import Database, database
from tests.support.old_tables import OLD_TABLES

README = (SQL / "README.md").read_text()
FUNCTIONS = "select proname from pg_proc where pronamespace = 'public'::regnamespace"
NAMES = """
    select indexrelid::regclass::text as name from pg_index as i join pg_class as c on c.oid = i.indrelid
    where c.relname ~ '^photo_generation_|^(runs|flows)$' and not i.indisprimary"""


@pytest.mark.parametrize(("name", "text"), [(name, make()) for name, make in FILES.items()])
def test_a_generated_file_equals_its_parts(name: str, text: str) -> None:
    """If it fails, run `python -m local.install_sql`."""
    assert (SQL / name).read_text() == text, "run `python -m local.install_sql`"


def test_install_contains_every_numbered_file_in_order() -> None:
    """No part is missing, and their order is that of their names."""
    places = [install_sql().index(part.read_text()) for part in functions()]
    assert len(places) > 5
    assert places == sorted(places)


def test_a_database_whose_installation_failed_is_not_copied(postgres: Postgres) -> None:
    """The next test meets the same error, and no database with half an installation."""
    for _ in range(2):
        with pytest.raises(KeyError), database(postgres, "unknown"):
            pass


def test_check_says_whether_they_are_up_to_date() -> None:
    """`--check` writes nothing and succeeds when there is nothing to write."""
    check = [sys.executable, "-m", "local.install_sql", "--check"]
    assert subprocess.run(check, cwd=SQL.parent, capture_output=True, text=True).stderr == ""


def test_functions_are_in_files_that_are_read_in_one_go() -> None:
    """No file of functions has more than 350 lines, and no line more than 140 characters, bodies included."""
    for path in (*functions(), *(SQL / "schedule").glob("*.sql")):
        lines = path.read_text().splitlines()
        assert len(lines) <= 350, path
        assert [line for line in lines if len(line) > 140] == [], path


def test_no_file_needs_psql() -> None:
    """Every file can be pasted: no line is a command of psql's own."""
    for path in sorted(SQL.rglob("*.sql")):
        assert not re.search(r"^\\", path.read_text(), re.MULTILINE), path


def test_install_twice_equals_the_parts(installed: Database) -> None:
    """One paste gives what the files give one by one; a second paste, and psql, change nothing."""
    once = catalog.schema(installed.connection)
    installed.install()
    assert installed.psql("-f", str(SQL / "install.sql")).returncode == 0
    for part in functions():
        installed.connection.execute(part.read_bytes())
    assert catalog.schema(installed.connection) == once
    assert len(once) > 150


def test_install_refuses_an_older_table(scratch: Database) -> None:
    """On top of an old table nothing is made, and the message says what to run instead."""
    old = OLD_TABLES["serial, enum, integer users, times without zone"]
    scratch.connection.execute(old.sql.encode())
    before = catalog.schema(scratch.connection)
    refused = scratch.psql("-f", str(SQL / "install.sql"))
    assert refused.returncode != 0
    assert "HINT:  Run sql/migrate_old_queue.sql." in refused.stderr
    assert catalog.schema(scratch.connection) == before


def test_the_readme_names_every_function_index_and_refusal(installed: Database) -> None:
    """Whoever adds one describes it."""
    names = {row["proname"] for row in installed.connection.execute(FUNCTIONS.encode()).fetchall()}
    indexes = {
        row["name"].rpartition(".")[2] for row in installed.connection.execute(NAMES.encode()).fetchall()
    }
    text = "".join(part.read_text() for part in functions())
    reasons = set(re.findall(r"generation\.refuse\('\d+', '(\w+)'", text))
    assert len(names) > 10 < len(reasons)
    assert {name for name in names | indexes | reasons if f"`{name}" not in README} == set()


def test_the_readme_says_who_may_call_a_function_as_the_table_of_callers_does(scratch: Database) -> None:
    """The table for signed-in users has exactly their functions."""
    scratch.install()
    callers = scratch.connection.execute("select * from generation.function_callers()").fetchall()
    users, service = README.split("For the service role and SQL sessions alone;")
    users = users.split("For signed-in users (for themselves) and the service role:")[1]
    named = [set(re.findall(r"^\|.*?`(\w+)\(", part, re.MULTILINE)) for part in (users, service)]
    wanted = [
        {row["signature"].partition("(")[0] for row in callers if row["for_users"] is of}
        for of in (True, False)
    ]
    assert named[0] == wanted[0]
    assert wanted[1] <= set(re.findall(r"`(\w+)\(", service)) | named[1]


STATES = """
    select v.relname as name, pg_get_viewdef(v.oid) as view, pg_get_expr(i.indpred, i.indrelid) as index
    from pg_class as v left join pg_index as i
      on i.indexrelid = to_regclass('public.photo_generation_queue_' || split_part(v.relname, '_', 1))
    where v.relkind = 'v' and v.relnamespace = 'generation'::regnamespace"""


def test_a_state_of_jobs_is_what_the_index_for_it_holds(scratch: Database) -> None:
    """A view that says more or less than its index's predicate would be read without the index."""
    scratch.install()
    found = scratch.connection.execute(STATES.encode()).fetchall()
    assert len(found) == 4
    for row in found:
        view = row["view"].partition("WHERE")[2].replace("photo_generation_queue.", "").rstrip(";")
        said = [re.sub(r"[()\s]+", " ", text).strip() for text in (view, row["index"])]
        assert said[0] == said[1], row["name"]
