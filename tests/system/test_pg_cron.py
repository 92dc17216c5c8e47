"""The clock for real: Debian's pg_cron 1.4.2 in the stack's own database, ticking at full minutes.

Real: PostgreSQL 15 with pg_cron, the API above it, the function served by functions-framework, all SQL.
Stood in for: pg_net and Vault, which Debian does not have (tests/support/pg_net.*, tests/support/vault.sql),
and Gemini.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from local.simulator.gemini import Simulator
from local.stack.postgres import DEBIAN, Postgres
from local.stack.stack import DATA, Stack
from tests.support.clocked import Clocked, clocked
from tests.support.clone import wait_for
from tests.support.installation import connect
from tests.support.schedule_sql import SECRET, every, paste

pytestmark = pytest.mark.system

CRON = ("shared_preload_libraries=pg_cron", "cron.use_background_workers=on", "cron.timezone=UTC")
JOBS = {
    "generation-worker": "* * * * *",
    "generation-worker-history": "45 4 * * *",
    "generation-worker-prune": "*/10 3 * * *",
    "generation-worker-sweep": "3-59/10 * * * *",
}
TICK_SECONDS = 100
"""Longer than until the next full minute, on a busy machine."""


@pytest.fixture(scope="module")
def cron_stack() -> Iterator[Stack]:
    """A stack on Debian's PostgreSQL 15 with pg_cron in it; a missing package is a failure that names it."""
    if not (DEBIAN / "15" / "lib" / "pg_cron.so").exists():
        pytest.fail("pg_cron.so is missing: apt-get install postgresql-15-cron", pytrace=False)
    DATA.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="cron-", dir=DATA))
    try:
        with Stack(folder, postgres=Postgres(folder, 15, durable=False, settings=CRON)) as stack:
            stack.psql("create extension pg_cron")
            yield stack
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def site(cron_stack: Stack, simulator: Simulator) -> Iterator[Clocked]:
    """The stack with the function, and call.sql run."""
    with connect(cron_stack.db_url) as db, clocked(cron_stack, simulator, db) as made:
        yield made


def asleep(text: str) -> str:
    """The change of schedule.sql after which no minute comes, so that a test is not disturbed by a tick."""
    return text.replace("\ncommit;", "\nupdate cron.job set schedule = '0 0 29 2 *';\ncommit;")


def jobs(site: Clocked) -> dict[str, str]:
    """The schedules of pg_cron by name."""
    rows = site.db.execute("select jobname, schedule from cron.job order by jobname").fetchall()
    return {row["jobname"]: row["schedule"] for row in rows}


def failed_runs(site: Clocked) -> list[str]:
    """The failed runs that pg_cron recorded."""
    rows = site.db.execute("select return_message from cron.job_run_details where status = 'failed'")
    return [row["return_message"] for row in rows]


def test_a_scheduled_tick_processes_the_queue(site: Clocked) -> None:
    """Without its address it fails with that reason; no secret is left behind."""
    job = site.order("by the clock")
    paste(site.db, "schedule.sql")
    assert site.verdict() == "Not yet: pg_cron has not run it."
    site.db.execute("update vault.secrets set name = 'mislaid' where name = 'generation_worker_url'")
    wait_for(lambda: failed_runs(site), TICK_SECONDS)
    assert "Vault has no secret named generation_worker_url." in failed_runs(site)[0]
    assert site.verdict() == "Not ticking: the last tick failed."
    assert "Vault has no secret named" in site.watch("fix")[0]
    assert site.calls() == []
    site.db.execute("update vault.secrets set name = 'generation_worker_url' where name = 'mislaid'")
    wait_for(lambda: site.is_completed(job), TICK_SECONDS)
    wait_for(lambda: site.verdict("worker").startswith("Answering"), TICK_SECONDS)
    assert site.verdict() == "Ticking."
    assert "tick /: 200, queue_empty, completed 1" in site.calls()
    for table in ("cron.job", "cron.job_run_details", "generation.worker_calls", "net._http_response"):
        (row,) = site.db.execute(
            f"select string_agg(t::text, '') as text from {table} as t".encode()
        ).fetchall()
        assert row["text"]
        assert SECRET not in row["text"], table


def test_running_schedule_sql_again_only_updates_its_schedules(site: Clocked) -> None:
    """Unscheduling leaves the app's own ones."""
    site.db.execute("select cron.schedule('the-apps-own', '0 0 1 1 *', 'select 1')")
    site.db.execute("select cron.schedule('generation-worker', '0 0 1 1 *', 'select 1')")
    for _ in range(2):
        told = paste(site.db, "schedule.sql")
        assert {row["job"]: row["schedule"] for row in told} == JOBS
        assert jobs(site) == JOBS | {"the-apps-own": "0 0 1 1 *"}
    for _ in range(2):
        paste(site.db, "unschedule.sql")
        assert jobs(site) == {"the-apps-own": "0 0 1 1 *"}
    assert site.verdict() == "Not ticking: nothing is scheduled here."
    site.db.execute("select cron.unschedule('the-apps-own')")


def test_every_scheduled_command_works(site: Clocked) -> None:
    """Each command does what it is for; of pg_cron's history only ours goes, and only after seven days."""
    paste(site.db, "schedule.sql", asleep)
    site.db.execute("delete from cron.job_run_details")
    site.db.execute("""
        insert into cron.job_run_details (jobid, runid, command, end_time)
        select 1, row_number() over (), command, now() - make_interval(days => days)
        from (values ('select generation.call_worker()'), ('select 1')) as c (command),
          (values (6), (8)) as d (days)""")
    site.db.execute("""
        insert into generation.worker_calls ("requestId", cause, path, "calledAt")
        values (-1, 'tick', '/', now() - interval '8 days'), (-2, 'tick', '/', now() - interval '6 days')""")
    for row in site.db.execute("select command from cron.job order by jobname").fetchall():
        site.db.execute(row["command"].encode())
    rows = site.db.execute(
        "select command, extract(day from now() - end_time)::integer as age from cron.job_run_details"
    )
    kept = {(row["command"], row["age"]) for row in rows}
    assert kept == {("select generation.call_worker()", 6), ("select 1", 6), ("select 1", 8)}
    calls = site.db.execute('select "requestId" as id, cause, path from generation.worker_calls').fetchall()
    assert {(row["cause"], row["path"]) for row in calls} == {("tick", "/"), ("sweep", "/sweep")}
    assert -1 not in {row["id"] for row in calls}
    assert len(calls) == 3
    wait_for(lambda: [": 200" in call for call in site.calls()].count(True) == 2)


def test_an_old_pg_cron_refuses_seconds(site: Clocked) -> None:
    """With 1.4 a tick of seconds is refused, both versions named; from 1.5 on pg_cron itself decides."""
    with pytest.raises(psycopg.errors.RaiseException) as caught:
        paste(site.db, "schedule.sql", every(15))
    assert caught.value.diag.message_primary == (
        "pg_cron 1.4-1 cannot run a schedule every 15 seconds; that needs pg_cron 1.5 or later."
    )
    assert "once a minute works" in (caught.value.diag.message_hint or "")
    assert jobs(site) == {}
    version = "update pg_extension set extversion = %s where extname = 'pg_cron'"
    try:
        for newer in ("1.5", "1.6.4", "1.10", "2.0-1"):
            site.db.execute(version, [newer])
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="invalid schedule: 15 seconds"):
                paste(site.db, "schedule.sql", every(15))
    finally:
        site.db.execute(version, ["1.4-1"])


@pytest.mark.parametrize("seconds", [0, 60, "1.5", "often"])
def test_seconds_must_be_seconds(site: Clocked, seconds: int | str) -> None:
    """We refuse anything but a whole number from 1 to 59, for any version."""
    with pytest.raises(psycopg.errors.RaiseException, match="must be a whole number from 1 to 59"):
        paste(site.db, "schedule.sql", every(seconds))


def test_a_schedule_that_is_switched_off(site: Clocked) -> None:
    """watch.sql says so when someone has switched the schedule off or its runs have stopped."""
    paste(site.db, "schedule.sql", asleep)
    site.db.execute("delete from cron.job_run_details")
    site.db.execute("""
        insert into cron.job_run_details (jobid, runid, status, command, start_time)
        select jobid, 1, 'succeeded', command, now() - interval '5 minutes'
        from cron.job where jobname = 'generation-worker'""")
    assert site.verdict().startswith("Not ticking: pg_cron has run nothing since")
    site.db.execute("update cron.job set active = false")
    assert site.verdict() == "Not ticking: the schedule is switched off."


def test_what_was_switched_off_stays_off_and_is_named(site: Clocked) -> None:
    """Running schedule.sql again starts nothing that a person has stopped, and says how to start it."""
    paste(site.db, "schedule.sql", asleep)
    site.db.execute(
        "select cron.alter_job(jobid, active => false) from cron.job where jobname = 'generation-worker'"
    )
    told = {row["job"]: row["state"] for row in paste(site.db, "schedule.sql")}
    assert {job for job, state in told.items() if state != "on"} == {"generation-worker"}
    state = told["generation-worker"].replace("\n", " ")
    assert "left off" in state
    site.db.execute(state[state.index("select") :].encode())
    assert site.verdict().startswith("Not yet")
    assert {row["state"] for row in paste(site.db, "schedule.sql", asleep)} == {"on"}


@pytest.fixture
def another_role(site: Clocked) -> Iterator[str]:
    """A second administrator, like `supabase_admin` beside `postgres`."""
    site.db.execute("create role second_admin superuser")
    yield "second_admin"
    site.db.execute("reset role; drop role second_admin")


def test_a_second_role_is_refused(site: Clocked, another_role: str) -> None:
    """Two roles' schedules would call the worker twice a minute; the error names the first role."""
    paste(site.db, "schedule.sql", asleep)
    site.db.execute(f"set role {another_role}".encode())
    with pytest.raises(psycopg.errors.RaiseException, match=f"postgres may .* You are {another_role}"):
        paste(site.db, "schedule.sql")
    assert jobs(site) == dict.fromkeys(JOBS, "0 0 29 2 *")


def test_schedules_of_two_roles_are_found(site: Clocked, another_role: str) -> None:
    """watch.sql and schedule.sql name a second role's schedules, and how to remove them."""
    paste(site.db, "schedule.sql", asleep)
    site.db.execute(f"set role {another_role}".encode())
    site.db.execute("select cron.schedule('generation-worker', '0 0 29 2 *', 'select 1')")
    site.db.execute("reset role")
    assert site.verdict() == "Ticking twice: two roles have schedules."
    assert f"generation-worker: 0 0 29 2 *, on, of {another_role}" in site.watch("schedule")
    with pytest.raises(psycopg.errors.RaiseException, match="has scheduled the worker") as caught:
        paste(site.db, "schedule.sql")
    who, _, statement = (caught.value.diag.message_hint or "").partition(" run: ")
    assert who == f"As {another_role}"
    site.db.execute(f"set role {another_role}; {statement}; reset role".encode())
    assert site.verdict().startswith("Not yet")
    paste(site.db, "unschedule.sql")
    assert jobs(site) == {}
