"""Sweeping and pruning read only the heads of their own indexes, however long the history is."""

from typing import Any

import pytest

from tests.support.queue_sql import Connection, Queue

# 20 000 jobs in 10 000 batches of 20 days: each fifth batch waits for a sweep of one of its jobs.
HISTORY = """
    insert into photo_generation_batches (id, "userId", status, "jobsTotal", "imagesTotal", "completedAt")
    select 'b' || i, 'u', 'failed', 2, 2, now() - interval '20 days' + make_interval(mins => i)
    from generate_series(1, 10000) as i;
    insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt", "startTag",
      "numImagesPerExample", status, "completedAt", claims, "sweptAt", "errorMessage")
    select b.id, 'u', 'https://photos.example.com/a', 'x', 1, 1, kind, b."completedAt", 1,
      case when kind = 'failed' and substr(b.id, 2)::integer % 5 > 0 then now() end, 'x'
    from photo_generation_batches as b, (values ('failed'), ('completed')) as k (kind);
    analyze photo_generation_queue, photo_generation_batches, photo_generation_photos"""
SCANS = """
    select c.relname as name, pg_stat_get_xact_numscans(c.oid) as scans,
      pg_stat_get_xact_tuples_returned(c.oid) as entries
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where c.relname like 'photo_generation_%' and c.relkind in ('r', 'i') and n.nspname = 'public'"""
UNSWEPT = """
    explain (format json) select q.id from photo_generation_queue as q
    where q."sweptAt" is null and q.status in ('completed', 'failed', 'cancelled')
      and (q.claims > 1 or (q.claims > 0 and q.status <> 'completed'))
      and q."completedAt" <= now() - interval '10 minutes'
      and (q."sweepUntil" is null or q."sweepUntil" <= now())
    order by q."sweepUntil" nulls first, q."completedAt" limit 20 for update skip locked"""


def scans(db: Connection) -> dict[str, Any]:
    """How often this session has begun to read each table and index, and how many entries it got."""
    return {row["name"]: row for row in db.execute(SCANS).fetchall()}


@pytest.mark.parametrize(
    ("function", "limit", "index"),
    [
        ("generation_jobs_to_sweep", 20, "photo_generation_queue_unswept"),
        ("prune_generation_history", 40, "photo_generation_batches_ended"),
    ],
)
def test_the_head_of_an_index_is_read(queue: Queue, function: str, limit: int, index: str) -> None:
    """A bounded call reads a bounded number of entries, and no table from beginning to end."""
    queue.connection.execute(HISTORY.encode())
    queue.connection.execute("begin")
    before = scans(queue.connection)
    days = {"p_older_than_days": 10} if function.startswith("prune") else {}
    answer = queue.call(function, p_limit=limit, **days)
    done = {name: row["entries"] - before[name]["entries"] for name, row in scans(queue.connection).items()}
    tables = ("photo_generation_queue", "photo_generation_batches")
    full = [name for name in tables if scans(queue.connection)[name]["scans"] > before[name]["scans"]]
    queue.connection.execute("rollback")
    assert len(answer.get("jobs", [])) == 20 or answer["jobsRemoved"] == 40
    assert full == []
    assert done[index] >= 20
    assert sum(done.values()) < 2000


def test_the_candidates_are_found_by_their_index(queue: Queue) -> None:
    """PostgreSQL plans the search for unswept jobs as a scan of the partial index, without a sort."""
    queue.connection.execute(HISTORY.encode())
    plan = str(queue.one(UNSWEPT))
    assert "photo_generation_queue_unswept" in plan
    assert "Sort" not in plan and "Seq Scan" not in plan
