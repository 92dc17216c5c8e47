"""Trouble ends when a run finds nothing wrong, and nothing is called well before the first run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ops.test_alerts import trouble
from tests.support.queue_sql import Clock, Queue
from worker.ops.health import health
from worker.ops.metrics import metrics_text

WRITES = "select pg_current_xact_id_if_assigned() is not null as writes"
RUNS = "select count(*) as n from generation.runs"


def misconfigured(queue: Queue) -> str:
    """A run that takes one job, stops as misconfigured and gives the job back; the job's batch."""
    batch = str(queue.open_gate().enqueue()["batchId"])
    run = queue.run()
    run.claim()
    run.finish(summary={"stopReason": "misconfigured", "problem": "The key is not valid."})
    return batch


def told(queue: Queue) -> dict[str, Any]:
    """What dashboard, metrics and alerts say about the last run."""
    stats = queue.call("generation_queue_stats")
    return {
        "page": health(stats).level == "trouble",
        "metrics": 'last_run_stopped{reason="misconfigured"} 1.0' in metrics_text(stats).decode(),
        "alerts": "misconfigured" in trouble(queue.connection),
        "status": stats["lastRun"]["problem"] is not None,
    }


def test_an_idle_run_ends_the_trouble_everywhere(queue: Queue, clock: Clock) -> None:
    """Once nothing waits for what was wrong, the next run ends the trouble, though there is no new order."""
    batch = misconfigured(queue)
    assert told(queue) == dict.fromkeys(("page", "metrics", "alerts", "status"), True)
    queue.call("cancel_generation_batch", p_batch_id=batch)
    clock.advance(60)
    assert queue.run().answer()["reason"] == "queue_empty"
    assert told(queue) == dict.fromkeys(("page", "metrics", "alerts", "status"), False)


def test_a_storage_that_keeps_no_image_is_trouble(queue: Queue) -> None:
    """While runs pay for nothing since Storage is out, the page says so, though nothing is misconfigured."""
    queue.open_gate().enqueue()
    for problem, level in ((None, "busy"), ("Storage answered 503", "trouble")):
        run = queue.run()
        run.claim()
        run.finish(summary={"stopReason": "queue_lost", "problem": problem})
        found = health(queue.call("generation_queue_stats"))
        assert found.level == level
    assert "Storage answered 503" in found.words


def test_a_run_that_may_not_start_ends_no_trouble(queue: Queue, clock: Clock) -> None:
    """While a job waits for the problem to be fixed, a paused run proves nothing."""
    batch = misconfigured(queue)
    queue.call("pause_generation")
    clock.advance(60)
    assert queue.run().answer()["reason"] == "paused"
    assert told(queue) == dict.fromkeys(("page", "metrics", "alerts", "status"), True)
    queue.call("cancel_generation_batch", p_batch_id=batch)
    clock.advance(60)
    assert queue.run().answer()["reason"] == "paused"
    assert not told(queue)["metrics"], "nothing waits any more"


def test_a_job_under_way_keeps_the_trouble(queue: Queue, clock: Clock) -> None:
    """While another run tries the job, a second run proves nothing; the first one's result counts."""
    misconfigured(queue)
    clock.advance(60)
    again = queue.run()
    again.claim()
    clock.advance(60)
    assert queue.run().answer()["reason"] == "queue_empty"
    assert told(queue)["page"]
    again.finish(summary={"stopReason": "misconfigured", "problem": "The key is not valid."})
    assert told(queue) == dict.fromkeys(("page", "metrics", "alerts", "status"), True)


def test_a_job_that_waits_for_storage_keeps_the_trouble(queue: Queue, clock: Clock) -> None:
    """While Storage refuses images and a job waits for its next try, an idle run ends no trouble."""
    queue.open_gate()
    batch = queue.enqueue()["batchId"]
    run = queue.run()
    (job,) = run.claim()
    facts = {"bytes": 1, "mimeType": "image/png", "problem": "there is no bucket"}
    queue.call("report_storage", p_kept=False, p_facts=facts)
    queue.settle(job, "retry", retryInSeconds=600)
    run.finish(summary={"stopReason": "misconfigured", "problem": "there is no bucket"})
    clock.advance(60)
    assert queue.run().answer()["reason"] == "queue_empty"
    assert told(queue)["page"]
    queue.call("cancel_generation_batch", p_batch_id=batch)
    clock.advance(60)
    queue.run().answer()
    assert not told(queue)["page"], "nobody waits for it"


def test_what_a_run_reported_is_over_once_no_job_waits_for_it(queue: Queue, clock: Clock) -> None:
    """A reported problem, such as a missing bucket, is shown only while a job waits for it."""
    queue.open_gate()
    batch = queue.enqueue()["batchId"]
    run = queue.run()
    (job,) = run.claim()
    queue.settle(job, "retry", retryInSeconds=600)
    run.finish(summary={"stopReason": "queue_empty", "problem": "there is no bucket my-uploads"})
    for step, level in (("", "attention"), ("cancel_generation_batch", "good")):
        if step:
            queue.call(step, p_batch_id=batch)
        clock.advance(60)
        assert queue.run().answer()["reason"] == "queue_empty"
        assert health(queue.call("generation_queue_stats")).level == level


@pytest.mark.parametrize("reason", ["queue_empty", "paused"])
def test_an_idle_run_writes_only_what_is_news(queue: Queue, clock: Clock, reason: str) -> None:
    """The first run ever leaves a row, and one after trouble; the others write nothing at all."""
    if reason == "paused":
        queue.call("pause_generation")
    for rows in (1, 1, 1):
        clock.advance(60)
        assert queue.run().answer()["reason"] == reason
        assert queue.one(RUNS)["n"] == rows
    with queue.connection.transaction():
        queue.run().answer()
        assert queue.one(WRITES)["writes"] is False


def test_a_run_that_worked_leaves_one_row(queue: Queue) -> None:
    """The first run ever works and then finds nothing more: the dashboard shows one run, not two."""
    queue.open_gate().enqueue()
    run = queue.run()
    (job,) = run.claim()
    queue.complete(job)
    assert run.answer()["reason"] == "queue_empty"
    run.finish(summary={"stopReason": "queue_empty"})
    assert queue.one(RUNS)["n"] == 1


def test_the_row_of_an_idle_run_hinders_nobody(queue: Queue, clock: Clock) -> None:
    """The row does not count as a concurrent run, and a repeated claim gets the same answer as the first."""
    run = queue.run()
    assert run.answer() == run.answer() == {"jobs": [], "reason": "queue_empty", "nextAttemptInSeconds": None}
    stats = queue.call("generation_queue_stats")
    assert (stats["runs"]["active"], stats["runs"]["diedLastHour"]) == (0, 0)
    assert stats["runs"]["lastFinished"]["stopReason"] == "queue_empty"


def test_all_is_well_only_after_a_run(queue: Queue, clock: Clock) -> None:
    """Before any run has come the verdict says so and what to do; the first idle run makes it good."""
    for order in (False, True):
        if order:
            queue.open_gate().enqueue()
        verdict = health(queue.call("generation_queue_stats"))
        assert verdict.level == "attention"
        assert "No run has started yet" in verdict.words and "python -m worker tick" in verdict.words
    run = queue.run()
    for job in run.claim():
        queue.complete(job)
    run.finish(summary={"stopReason": "queue_empty"})
    assert health(queue.call("generation_queue_stats")).words.startswith("All is well")
