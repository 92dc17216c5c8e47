"""plpgsql_check reads the body of every function: names, types, paths without an end, what is never used.

Real: Debian's plpgsql_check for PostgreSQL 15, pg_cron, everything that sql/ makes.
Stood in for: pg_net and Vault.
"""

import tempfile
from pathlib import Path

import pytest

from local.stack.postgres import DEBIAN, Postgres
from tests.support.databases import SUPABASE, Database
from tests.support.schedule_sql import paste, prepare
from tests.system.test_pg_cron import CRON

pytestmark = pytest.mark.system

FOUND = """
    select p.oid::regprocedure::text as function, c.lineno, c.level, c.message, c.detail
    from pg_proc as p
    join pg_language as l on l.oid = p.prolang and l.lanname = 'plpgsql'
    left join pg_trigger as t on t.tgfoid = p.oid and not t.tgisinternal
    cross join lateral plpgsql_check_function_tb(p.oid, coalesce(t.tgrelid, 0), fatal_errors := false,
      all_warnings := true) as c
    where p.pronamespace in ('public'::regnamespace, 'generation'::regnamespace, pg_my_temp_schema())
      and p.proname <> 'migrate'  -- it executes the text that it is given
    order by 1, 2"""
COUNT = """
    select count(*) as n from pg_proc as p join pg_language as l on l.oid = p.prolang
    where l.lanname = 'plpgsql' and p.pronamespace in ('public'::regnamespace, 'generation'::regnamespace)"""
# A literal or a count that is assigned to another type; `volatile` where it is meant: what locks or refuses;
# a row that a function returns beside something else.
MEANT = (
    "target type is different type than source type",
    "routine is marked as VOLATILE",
    "composite OUT variable",
)


def test_no_function_has_a_finding() -> None:
    """No error and no warning in any function, those of the schedule and its watch included."""
    for library, name in (("plpgsql_check", "plpgsql-check"), ("pg_cron", "cron")):
        if not (DEBIAN / "15" / "lib" / f"{library}.so").exists():
            pytest.fail(f"{library}.so is missing: apt-get install postgresql-15-{name}", pytrace=False)
    with (
        tempfile.TemporaryDirectory(prefix="check-") as folder,
        Postgres(Path(folder), 15, durable=False, settings=CRON) as postgres,
    ):
        made = Database(postgres, "postgres")
        with made.connection as connection:
            connection.execute(SUPABASE)
            made.install()
            connection.execute("create extension pg_cron; create extension plpgsql_check")
            prepare(connection)
            for file in ("kick.sql", "schedule.sql", "watch.sql"):
                paste(connection, file)
            found = connection.execute(FOUND.encode()).fetchall()
            count = connection.execute(COUNT).fetchone()
    assert count is not None and count["n"] > 100
    assert [row for row in found if not row["message"].startswith(MEANT)] == []
