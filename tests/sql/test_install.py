"""Installing: twice is once, PostgreSQL 15 and 16 will do, illegal states cannot be stored, indexes serve."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from local.stack.postgres import DEBIAN, Postgres
from local.stack.stack import Stack, project_sql
from local.stack.supabase import ROLES
from tests.support.installation import connect, data_folder
from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Connection, Queue

CATALOGUE = """
    with ours as (
      select oid, nspname from pg_namespace where nspname in ('public', 'generation', 'storage')
    )
    select 'function ' || pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') as what
    from pg_proc as p join ours on ours.oid = p.pronamespace where p.prokind = 'f'
    union all
    select format('table %s %s %s', c.oid::regclass, c.relacl, c.relrowsecurity)
    from pg_class as c join ours on ours.oid = c.relnamespace where c.relkind in ('r', 'S', 'v')
    union all
    select format('column %s %s %s %s %s %s', a.attrelid::regclass, a.attnum, a.attname, a.atttypid::regtype,
      a.attnotnull, (select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef as d
        where d.adrelid = a.attrelid and d.adnum = a.attnum))
    from pg_attribute as a join pg_class as c on c.oid = a.attrelid join ours on ours.oid = c.relnamespace
    where a.attnum > 0 and c.relkind = 'r'
    union all
    select format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(c.oid))
    from pg_constraint as c join ours on ours.oid = c.connamespace
    union all
    select 'index ' || indexdef from pg_indexes join ours on ours.nspname = schemaname
    union all
    select 'trigger ' || pg_get_triggerdef(t.oid) from pg_trigger as t where not t.tgisinternal
    union all
    select 'policy ' || p::text from pg_policies as p
    union all
    select 'bucket ' || bucket from generation.photo_buckets
    order by what"""

# constraint: how to break it, on a ready job, its batch or the gate
ILLEGAL = {
    "photo_generation_batches_status": "status = 'lost'",
    "photo_generation_batches_counters": '"jobsDone" = "jobsTotal" + 1',
    "photo_generation_queue_status": "status = 'lost'",
    "photo_generation_queue_arrays": "styles = '{}'",
    "photo_generation_queue_images": '"numImagesPerExample" = 0',
    "photo_generation_queue_attempts": "attempts = -1",
    "photo_generation_queue_locked": "status = 'processing', \"lockedBy\" = 'w', \"lockedAt\" = now()",
    "photo_generation_queue_unlocked": "\"lockedBy\" = 'w'",
    "photo_generation_queue_waiting": "status = 'rate_limited'",
    "photo_generation_queue_final": "status = 'completed'",
    "photo_generation_queue_reason": "status = 'failed', \"completedAt\" = now()",
    "gates_rate": "rate = 0.5",
    "gates_burst": "burst = 0",
    "gates_window": '"windowSeconds" = 0',
    "gates_grace": '"graceSeconds" = 0',
    "gates_learned": "\"learnedFrom\" = 'hearsay'",
    "limits_one_row": "id = false",
    "limits_images": '"imagesPerDay" = -1',
    "limits_dollars": '"dollarsPerDay" = -0.01',
    "limits_runs": '"maxRuns" = 0',
    "limits_age": '"maxAgeHours" = 0',
    "limits_user_queued": '"userImagesQueued" = -1',
    "limits_user_images": '"userImagesPerDay" = -1',
    "limits_user_dollars": '"userDollarsPerDay" = -0.01',
    "prices_dollars": "dollars = -1",
    "photo_hosts_form": "host = 'https://photos.example.com'",
}
TABLES = (
    "photo_generation_batches",
    "photo_generation_queue",
    "generation.gates",
    "generation.limits",
    "generation.prices",
    "generation.photo_hosts",
)
MORE_ILLEGAL = [
    ("photo_generation_batches_counters", '"imagesFailed" = -1'),
    ("photo_generation_batches_counters", '"imagesDone" = 1, "imagesFailed" = "imagesTotal"'),
    ("photo_generation_queue_arrays", "\"trainingImageUrls\" = 'null'"),
    ("photo_generation_queue_images", '"numImagesPerExample" = 101'),
    ("photo_generation_queue_attempts", '"maxAttempts" = 0'),
    (
        "photo_generation_queue_locked",
        "status = 'processing', \"lockedBy\" = 'w', \"lockedAt\" = now(), "
        '"leaseExpiresAt" = now(), "retryAt" = now()',
    ),
    ("photo_generation_queue_unlocked", "\"lockedBy\" = 'w', status = 'cancelled', \"completedAt\" = now()"),
    ("photo_generation_queue_final", "status = 'cancelled'"),
    ("photo_generation_queue_final", "status = 'failed', \"errorMessage\" = 'x'"),
    ("photo_hosts_form", "host = 'Photos.example.com'"),
    ("photo_hosts_form", "host = '*.com'"),
    ("photo_hosts_form", "host = '127.0.0.1'"),
    ("photo_hosts_form", "host = 'photos.example.com:443'"),
    ("photo_hosts_form", "host = 'photos.*.com'"),
]


def catalogue(db: Connection) -> list[Any]:
    """Everything the installation makes, as text."""
    return [row["what"] for row in db.execute(CATALOGUE).fetchall()]


def test_twice_is_once(as_installed: None, db: Connection, stack: Stack) -> None:
    """Applying the SQL again changes nothing, and keeps the rows."""
    queue = Queue(db)
    job = queue.claimed(images=2)
    queue.record(job, 0)
    before, row = catalogue(db), queue.job(job["id"])
    stack.postgres.run(project_sql())
    assert catalogue(db) == before
    assert queue.job(job["id"]) == row
    check_invariants(db)


@contextmanager
def plain_postgres(version: int) -> Iterator[Postgres]:
    """A PostgreSQL with Supabase's roles and nothing else of it."""
    with data_folder() as folder, Postgres(folder, version, durable=False) as postgres:
        postgres.psql(ROLES)
        yield postgres


def live_through(version: int) -> None:
    """Installs the SQL twice on a plain PostgreSQL and takes jobs through their whole lives there."""
    with plain_postgres(version) as postgres:
        for _ in range(2):
            postgres.run(project_sql())
        with connect(postgres.db_url) as connection:
            queue = Queue(connection)
            assert queue.one("show server_version_num")["server_version_num"].startswith(str(version))
            batch_id = queue.enqueue(examples=3, images=2)["batchId"]
            assert len(queue.call("peek_generation_jobs")["jobs"]) == 3
            run = queue.run()
            made, put_off, failed = run.claim()
            queue.complete(made)
            queue.record(put_off, 1)
            queue.settle(put_off, "rate_limited", untilDailyReset=True)
            queue.settle(failed, "failed")
            assert run.finish() == 0
            connection.execute(
                """update photo_generation_queue set "retryAt" = now() where "retryAt" is not null"""
            )
            (again,) = queue.run().claim()
            assert (again["missing"], again["claimedBefore"]) == ([0], True)
            queue.complete(again)
            assert queue.batch(batch_id)["status"] == "partial"
            assert queue.call("retry_failed_generation_jobs") == {"retried": 1}
            assert queue.call("cancel_generation_batch", p_batch_id=batch_id)["jobsCancelled"] == 1
            assert queue.call("generation_queue_stats")["lastDay"]["completed"] == 2
            check_invariants(connection)


def test_the_sql_works_on_a_plain_postgresql_16() -> None:
    """The SQL installs twice without Storage, and a job can be ordered, claimed and completed."""
    live_through(16)


@pytest.mark.system
def test_the_sql_works_on_a_plain_postgresql_15(program: Callable[[str, str], str]) -> None:
    """The oldest version that Supabase runs; here Debian's."""
    program(str(DEBIAN / "15" / "bin" / "postgres"), "postgresql-15")
    live_through(15)


@pytest.mark.parametrize(("constraint", "change"), [*ILLEGAL.items(), *MORE_ILLEGAL])
def test_the_table_refuses_impossible_states(queue: Queue, constraint: str, change: str) -> None:
    """A status without its columns, or invalid counters and caps."""
    queue.enqueue(images=2)
    queue.call("set_generation_rate", p_model="model", p_rate=10)
    (table,) = [name for name in TABLES if constraint.startswith(name.removeprefix("generation."))]
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        queue.connection.execute(f"update {table} set {change}".encode())
    assert caught.value.diag.constraint_name == constraint


def test_every_constraint_is_tried(db: Connection) -> None:
    """No check constraint goes untested."""
    found = db.execute("""
        select conname from pg_constraint
        where contype = 'c' and conrelid::regclass::text ~ '^(generation\\.|photo_generation_)'""")
    assert {row["conname"] for row in found.fetchall()} == ILLEGAL.keys()


# 4 000 rows of each kind that a claim must not have to read.
BACKLOG = """
    insert into photo_generation_batches (id, "userId", "jobsTotal", "imagesTotal")
    values ('b', 'u', 20000, 20000);
    insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt", "startTag",
      "numImagesPerExample", status, "retryAt", "completedAt", "lockedBy", "lockedAt", "leaseExpiresAt")
    select 'b', 'u', 'https://photos.example.com/a', 'x', i, 1, kind,
      case when due then now() + interval '1 day' end, case when kind = 'completed' then now() end,
      case when kind = 'processing' then 'w/r/' || i end, case when kind = 'processing' then now() end,
      case when kind = 'processing' then now() + interval '280 seconds' end
    from generate_series(1, 4000) as i, (values ('pending', false), ('pending', true), ('rate_limited', true),
      ('completed', false), ('processing', false)) as k (kind, due);
    analyze photo_generation_queue, photo_generation_batches, photo_generation_photos"""
SCANS = """
    select c.relname as name, pg_stat_get_xact_numscans(c.oid) as scans,
      pg_stat_get_xact_tuples_returned(c.oid) as entries
    from pg_class as c
    where c.relname like 'photo_generation_queue%' and c.relkind in ('r', 'i')"""


def scans(queue: Queue) -> dict[tuple[str, str], int]:
    """How often this session has begun to read the queue's table and indexes, and how many entries it got."""
    rows = queue.connection.execute(SCANS).fetchall()
    return {(row["name"], what): row[what] for row in rows for what in ("scans", "entries")}


@pytest.mark.parametrize("function", ["claim", "peek", "finish"])
def test_claim_reads_the_partial_indexes(queue: Queue, function: str) -> None:
    """With thousands of rows of every kind, a claim of ten jobs reads heads of indexes, never the table."""
    queue.connection.execute(BACKLOG)
    queue.connection.execute("begin")
    before = scans(queue)
    if function == "claim":
        assert len(queue.run().claim(10)) == 10
    elif function == "peek":
        assert len(queue.call("peek_generation_jobs", p_max_jobs=10)["jobs"]) == 10
    else:
        queue.run().finish()
    done = {name: after - before[name] for name, after in scans(queue).items()}
    queue.connection.execute("rollback")
    served = {"ready", "waiting", "leases", "held"} if function == "claim" else {"ready", "waiting", "leases"}
    for index in served if function != "finish" else {"held"}:
        assert done[f"photo_generation_queue_{index}", "scans"] > 0, index
    assert done["photo_generation_queue", "scans"] == 0
    assert sum(count for (_, what), count in done.items() if what == "entries") < 300
