"""The operator's overview: the latest of everything, and which jobs want a look and why."""

from __future__ import annotations

import pytest

from tests.support.queue_sql import Clock, Queue, refused

FOUR = ("batches", "troubles", "runs", "photos")


def test_an_empty_queue(queue: Queue) -> None:
    """With nothing to show every list is empty, not missing."""
    overview = queue.call("generation_overview")
    assert {name: overview[name] for name in FOUR} == {name: [] for name in FOUR}
    assert set(overview) == {"at", *FOUR}


@pytest.mark.parametrize("limit", [0, 101, None])
def test_its_limit_is_bounded(queue: Queue, limit: int | None) -> None:
    """A larger limit than a page can show is refused, so that nobody reads whole tables through it."""
    with refused("400", "out_of_range", "p_limit"):
        queue.call("generation_overview", p_limit=limit)


def test_the_latest_come_first(queue: Queue, clock: Clock) -> None:
    """Batches, photos and runs are listed newest first, at most the given number of each."""
    queue.open_gate()
    batches = []
    for _ in range(3):
        clock.advance(60)
        batches.append(queue.enqueue(images=2)["batchId"])
        run = queue.run()
        for job in run.claim():
            queue.complete(job)
        run.finish(summary={"stopReason": "queue_empty", "completed": 1, "images": {"made": 2}})
    overview = queue.call("generation_overview", p_limit=2)
    assert [batch["id"] for batch in overview["batches"]] == batches[:0:-1]
    assert [(photo["batchId"], photo["imageIndex"]) for photo in overview["photos"]] == [
        (batches[2], 1),
        (batches[2], 0),
    ]
    assert [
        (run["state"], run["stopReason"], run["completed"], run["images"]) for run in overview["runs"]
    ] == [("finished", "queue_empty", 1, 2)] * 2
    assert overview["runs"][0]["startedAt"] > overview["runs"][1]["startedAt"]
    assert overview["troubles"] == []


def test_how_a_run_is(queue: Queue, clock: Clock) -> None:
    """A run is active until it finishes or its deadline passes; without a summary it has no counts."""
    queue.open_gate().enqueue()
    queue.run().claim()
    (running,) = queue.call("generation_overview")["runs"]
    assert (running["state"], running["stopReason"], running["completed"]) == ("running", None, None)
    clock.advance(241)
    (died,) = queue.call("generation_overview")["runs"]
    assert died["state"] == "died"


def test_what_wants_a_look(queue: Queue, clock: Clock) -> None:
    """Failed jobs of the last day, jobs of dead workers, those about to fail; each with its reason."""
    queue.open_gate()
    old = queue.claimed(user_id="old")
    queue.settle(old, "failed", code="photo_missing", message="The photo is not there.")
    clock.advance(86_400 + 1)
    failed = queue.claimed(user_id="failed")
    queue.settle(failed, "failed", code="photo_too_large", message="The photo has 9 MB.")
    clock.advance(1)
    fine = queue.claimed(user_id="fine", maxAttempts=5)
    queue.settle(fine, "retry", retryInSeconds=3600)
    nearly = queue.claimed(user_id="nearly", maxAttempts=2)
    queue.settle(nearly, "retry", retryInSeconds=3600, code="unavailable", message="Gemini was overloaded.")
    stale = queue.claimed(user_id="stale")
    clock.advance(291)
    troubles = queue.call("generation_overview")["troubles"]
    found = {job["id"]: (job["why"], job["status"], job["code"], job["message"]) for job in troubles}
    assert found == {
        failed["id"]: ("failed", "failed", "photo_too_large", "The photo has 9 MB."),
        nearly["id"]: ("struggling", "pending", "unavailable", "Gemini was overloaded."),
        stale["id"]: ("stale", "processing", None, None),
    }
    assert [job["id"] for job in troubles] == [nearly["id"], stale["id"], failed["id"]]


def test_a_suspect_of_a_crash_wants_a_look(queue: Queue, clock: Clock) -> None:
    """A job that waits after its worker died is shown, for it may be what killed it."""
    queue.open_gate().enqueue(examples=2)
    queue.run().claim()
    clock.advance(291)
    (retaken,) = queue.run("another").claim()
    queue.settle(retaken, "retry", retryInSeconds=60)
    troubles = queue.call("generation_overview")["troubles"]
    assert [job["why"] for job in troubles if job["status"] == "pending" and job["id"] == retaken["id"]] == []
    queue.connection.execute("update photo_generation_queue set crashes = 1 where id = %s", [retaken["id"]])
    (shown,) = queue.call("generation_overview")["troubles"]
    assert (shown["id"], shown["why"], shown["crashes"]) == (retaken["id"], "struggling", 1)
