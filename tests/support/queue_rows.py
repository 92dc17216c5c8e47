"""Compares the queue's tables with the model, row by row, and checks relations between columns."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from tests.support.gate_model import Gate
from tests.support.gate_sql import gate
from tests.support.job_model import FINAL, Batch, Job
from tests.support.queue_model import QueueModel, RunState
from tests.support.queue_sql import Queue

JOBS = """
    select q.*, (select coalesce(json_object_agg(p."imageIndex", p."storagePath"), '{}')
        from photo_generation_photos as p where (p."batchId", p."jobId") = (q."batchId", q.id)) as made,
      (select coalesce(json_object_agg(f."imageIndex", f.code), '{}')
        from generation.failed_images as f where (f."batchId", f."jobId") = (q."batchId", q.id)) as "givenUp",
      (select count(*) from photo_generation_photos as p
        where (p."batchId", p."jobId") = (q."batchId", q.id)) as photos
    from photo_generation_queue as q"""
# An idle run's note has an id of its own, and names the run.
RUNS = "select * from generation.runs where summary ? 'runId' is not true"


def expected_job(job: Job) -> dict[str, object]:
    """The model's values of a job's row; other columns may have any value."""
    told: dict[str, object] = {
        "status": job.status,
        "attempts": job.attempts,
        "crashes": job.crashes,
        "suspect": job.suspect,
        "claims": job.claims,
        "startTag": job.tag,
        "retryAt": job.retry_at,
        "lockedBy": job.fence,
        "lockedAt": job.locked_at,
        "startedAt": job.started,
        "errorCode": job.code,
        "made": {str(index): path for index, path in job.made.items()},
        "givenUp": {str(index): code for index, code in job.given_up.items()},
    }
    if job.fence:
        _, run_id, claim_id = job.fence.split("/")
        told |= {"leaseExpiresAt": job.lease_ends, "runId": UUID(run_id), "claimId": UUID(claim_id)}
    return told


def expected_batch(batch: Batch) -> dict[str, object]:
    """The model's values of a batch's row."""
    names = ("jobsTotal", "jobsDone", "jobsFailed", "imagesTotal", "imagesDone", "imagesFailed")
    return {"userId": batch.user, "status": batch.status} | dict(zip(names, batch.counters, strict=True))


def expected_run(run: RunState) -> dict[str, object]:
    """The model's values of a run's row."""
    return {"workerId": run.worker, "endsBy": run.ends_by, "claimIds": run.claims}


def check_job(row: DictRow) -> None:
    """The relations between a job's columns."""
    assert (row["lockedBy"] is not None) == (row["status"] == "processing"), row
    assert row["retryAt"] is None or row["status"] in ("pending", "rate_limited"), row
    assert row["retryAt"] is not None or row["status"] != "rate_limited", row
    assert (row["completedAt"] is not None) == (row["status"] in FINAL), row
    assert row["errorMessage"] is not None or row["status"] != "failed", row
    assert row["photos"] == len(row["made"]), row
    assert not row["made"].keys() & row["givenUp"].keys(), row


def check_gate(row: Mapping[str, Any], expected: Gate, now: datetime) -> None:
    """The gate's row is what the model says; the starts that no longer count may be there or not."""
    names = ("blockedUntil", "probeAt", "probedAt")
    times = [row[name] and datetime.fromisoformat(row[name]) for name in names]
    learned = None if expected.learned is None else float(expected.learned)
    assert times == [expected.blocked_until, expected.probe_at, expected.probed_at], row
    given = zip(map(datetime.fromisoformat, row["startTimes"]), row["startCounts"], strict=True)
    since = now - expected.span
    assert {at: starts for at, starts in given if at > since} == Counter(
        at for at in expected.given if at > since
    ), row
    assert row["provenStarts"] == expected.proven, row
    assert row["learnedRate"] == learned, row
    assert (row["epoch"], row["limits"]) == (expected.epoch, expected.limits), row
    assert (row["today"], row["startedToday"]) == (expected.today.isoformat(), expected.started), row


def check_rows(queue: Queue, model: QueueModel) -> dict[int, str]:
    """Every row is what the model says, and no row is missing or too many; the status of each job."""
    jobs = {row["id"]: row for row in queue.connection.execute(JOBS).fetchall()}
    _compare(jobs, {job.id: expected_job(job) for job in model.jobs.values()})
    for row in jobs.values():
        check_job(row)
    batches = queue.connection.execute("select * from photo_generation_batches").fetchall()
    expected = {batch.id: expected_batch(batch) for batch in model.batches.values()}
    _compare({row["id"]: row for row in batches}, expected)
    for row in batches:
        assert (row["completedAt"] is not None) == (row["status"] != "generating"), row
    runs = {row["id"]: row for row in queue.connection.execute(RUNS).fetchall()}
    _compare(runs, {run.id: expected_run(run) for run in model.runs if run.ends_by})
    for run in model.runs:
        ends = [runs[run.id][name] is not None for name in ("finishedAt", "rescuedAt")] if run.ends_by else []
        assert run.ends_by is None or ends == [run.finished, run.rescued], run
    check_gate(gate(queue), model.gate, model.now)
    return {row["id"]: row["status"] for row in jobs.values()}


def _compare(rows: Mapping[Any, DictRow], expected: Mapping[Any, Mapping[str, object]]) -> None:
    """The tables have these rows; each named column has this value."""
    assert rows.keys() == expected.keys()
    for key, columns in expected.items():
        assert {name: rows[key][name] for name in columns} == columns, key
