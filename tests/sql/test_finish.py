"""Finish: a run releases what its claims still hold, even if their answers were lost."""

from uuid import uuid4

import pytest

from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Clock, Queue, refused


def test_a_finish_releases_all_jobs_of_its_runs_claims(queue: Queue) -> None:
    """The jobs are released even if the answer to a claim was lost; other runs keep their jobs."""
    queue.enqueue(examples=7)
    run, other = queue.run(), queue.run()
    run.claim(2)
    run.answer(2)  # its answer never arrived
    held = other.claim(2)
    assert run.finish() == 4
    waiting = queue.connection.execute(
        "select id, attempts from photo_generation_queue where status = 'pending' and \"retryAt\" is null"
    ).fetchall()
    assert {row["attempts"] for row in waiting} == {0}
    assert len(waiting) == 5
    assert all(queue.job(job["id"])["lockedBy"] == job["fence"] for job in held)
    check_invariants(queue.connection)


def test_a_job_whose_request_was_sent_keeps_its_attempt_spent(queue: Queue) -> None:
    """Its last attempt fails the job."""
    queue.enqueue(maxAttempts=1)
    queue.enqueue(examples=2)
    run = queue.run()
    last, spent, unspent = run.claim()
    assert run.finish(last["id"], spent["id"]) == 3
    rows = [queue.job(job["id"]) for job in (last, spent, unspent)]
    assert [(row["status"], row["attempts"]) for row in rows] == [
        ("failed", 1),
        ("pending", 1),
        ("pending", 0),
    ]
    assert "run ended" in rows[0]["errorMessage"]
    check_invariants(queue.connection)


def test_a_finish_completes_a_job_whose_images_are_all_recorded(queue: Queue) -> None:
    """Its settle was lost."""
    job = queue.claimed()
    queue.record(job, 0)
    worker, run_id, _ = job["fence"].split("/")
    run = queue.run(worker)
    run.id = run_id
    assert run.finish(job["id"]) == 1
    assert queue.job(job["id"])["status"] == "completed"
    check_invariants(queue.connection)


def test_a_second_finish_changes_nothing(queue: Queue, clock: Clock) -> None:
    """The first summary stays."""
    queue.enqueue()
    run = queue.run("w")
    run.claim()
    run.finish(summary={"stopReason": "budget"})
    finished = queue.one("select * from generation.runs")
    clock.advance(5)
    assert run.finish(summary={"stopReason": "shutdown"}) == 0
    assert queue.one("select * from generation.runs") == finished
    assert (finished["summary"], finished["workerId"]) == ({"stopReason": "budget"}, "w")
    assert queue.call("generation_queue_stats")["lastRun"]["stopReason"] == "budget"


def test_run_that_claimed_nothing(queue: Queue) -> None:
    """A run whose claim never arrived is finished too, so that a late claim is refused."""
    queue.enqueue()
    run = queue.run()
    assert run.finish() == 0
    with refused("409", "run_finished"):
        run.claim()
    assert queue.run().claim()


def test_released_jobs_are_anybodys(queue: Queue) -> None:
    """A late settle of a finished run changes nothing; the next run gets the job."""
    queue.enqueue()
    run = queue.run()
    (job,) = run.claim()
    run.finish()
    (again,) = queue.run().claim()
    assert queue.settle(job, "completed")["result"] == "lease_lost"
    assert queue.job(job["id"])["lockedBy"] == again["fence"]


def test_a_finish_releases_only_its_own_runs_claims(queue: Queue) -> None:
    """Another run of the same worker keeps its jobs."""
    queue.enqueue(examples=2)
    run, other = queue.run("w"), queue.run("w")
    run.claim(1)
    (job,) = other.claim(1)
    assert run.finish() == 1
    assert queue.job(job["id"])["status"] == "processing"


@pytest.mark.parametrize(("worker", "run_id"), [("a b", uuid4()), (None, uuid4()), ("w", None)])
def test_a_finish_needs_a_worker_and_a_run(queue: Queue, worker: str | None, run_id: object) -> None:
    """A finish without a worker or without a run is refused."""
    with refused("400", "missing" if worker == "w" else "bad_worker_id"):
        queue.call(
            "finish_generation_run", p_run_id=run_id, p_worker_id=worker, p_summary={}, p_spent_jobs=[]
        )
