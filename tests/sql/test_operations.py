"""What operators, apps and the status page call: peek, release, retry, cancel, the batch, the numbers."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Clock, Queue, blocked, refused
from worker.supabase.queue import SCHEMA_VERSION

LEASE = 255  # seconds; of a run of 240 s
FUNCTIONS = [
    "add_generation_photo_host",
    "cancel_generation_batch",
    "claim_generation_jobs",
    "enqueue_generation_batch",
    "erase_generation_user",
    "finish_generation_run",
    "generation_access_findings",
    "generation_details",
    "generation_erasures_to_sweep",
    "generation_gate",
    "generation_jobs_to_sweep",
    "generation_models",
    "generation_overview",
    "generation_photo_hosts",
    "generation_queue_stats",
    "generation_schema_version",
    "get_generation_batch",
    "pause_generation",
    "peek_generation_jobs",
    "prune_generation_history",
    "record_failed_image",
    "record_generated_photo",
    "release_stale_generation_jobs",
    "remove_generation_gate",
    "remove_generation_photo_host",
    "report_rate_limit",
    "report_storage",
    "resume_generation",
    "retire_generation_model",
    "retry_failed_generation_jobs",
    "set_generation_limits",
    "set_generation_model",
    "set_generation_model_successor",
    "set_generation_rate",
    "settle_generation_erasure",
    "settle_generation_jobs",
    "settle_swept_generation_jobs",
    "take_start_slots",
]


def test_only_locks_older_than_asked_are_released(queue: Queue, clock: Clock) -> None:
    """Their workers have lost the lease."""
    old, young = queue.claimed(), None
    clock.advance(301)
    queue.enqueue()
    queue.connection.execute("update photo_generation_queue set \"leaseExpiresAt\" = 'infinity'")
    (young,) = queue.run().claim()
    assert queue.call("release_stale_generation_jobs") == {"released": 1}
    assert queue.call("release_stale_generation_jobs") == {"released": 0}
    assert queue.job(young["id"])["status"] == "processing"
    assert queue.settle(old, "completed")["result"] == "lease_lost"
    assert queue.job(old["id"])["attempts"] == 1
    check_invariants(queue.connection)


def failed_batch(queue: Queue) -> dict[str, Any]:
    """A failed job of four images: one made, one refused, two missing."""
    job = queue.claimed(images=4)
    queue.record(job, 0)
    queue.refuse(job, 1)
    assert queue.settle(job, "failed")["status"] == "failed"
    return job


def test_a_retried_job_has_all_attempts_and_only_its_missing_images(queue: Queue) -> None:
    """What was made stays."""
    job = failed_batch(queue)
    assert queue.counters(job["batchId"]) == (0, 1, 1, 3)
    assert queue.call("retry_failed_generation_jobs") == {"retried": 1}
    assert queue.counters(job["batchId"]) == (0, 0, 1, 1)
    assert (queue.job(job["id"])["attempts"], queue.batch(job["batchId"])["completedAt"]) == (0, None)
    assert queue.call("retry_failed_generation_jobs") == {"retried": 0}
    (again,) = queue.run().claim()
    assert again["missing"] == [2, 3]
    queue.complete(again)
    assert queue.batch(job["batchId"])["status"] == "partial"
    check_invariants(queue.connection)


def test_retry_including_refused(queue: Queue) -> None:
    """Refused images are made again only on request, and the counters are right either way."""
    job = failed_batch(queue)
    answer = queue.call("retry_failed_generation_jobs", p_batch_id=job["batchId"], p_including_refused=True)
    assert answer == {"retried": 1}
    assert queue.counters(job["batchId"]) == (0, 0, 1, 0)
    (again,) = queue.run().claim()
    assert again["missing"] == [1, 2, 3]
    queue.complete(again)
    assert queue.batch(job["batchId"])["status"] == "completed"
    check_invariants(queue.connection)


def test_retry_leaves_refused_alone(queue: Queue) -> None:
    """A job with all images refused is not retried unless requested."""
    job = queue.claimed(images=2)
    queue.refuse(job, 0)
    queue.refuse(job, 1)
    assert queue.settle(job, "completed")["status"] == "failed"
    assert queue.call("retry_failed_generation_jobs") == {"retried": 0}
    assert queue.call("retry_failed_generation_jobs", p_including_refused=True) == {"retried": 1}
    check_invariants(queue.connection)


def test_retry_one_batch_of_many(queue: Queue) -> None:
    """Only jobs of the named batch are retried, and at most the given number."""
    batches = [queue.enqueue(examples=3)["batchId"] for _ in range(2)]
    for job in queue.run().claim():
        queue.settle(job, "failed")
    retry = "retry_failed_generation_jobs"
    assert queue.call(retry, p_batch_id=batches[1], p_limit=2) == {"retried": 2}
    assert [queue.counters(batch)[1] for batch in batches] == [3, 1]
    assert queue.call(retry) == {"retried": 4}
    with refused("404", "no_such_batch"):
        queue.call(retry, p_batch_id="nowhere")
    check_invariants(queue.connection)


def mixed_batch(queue: Queue) -> tuple[str, list[dict[str, Any]]]:
    """A batch with a job completed, one failed, one waiting, one rate limited, one processing, one ready."""
    batch_id = queue.enqueue(examples=6, images=2)["batchId"]
    jobs = queue.run().claim(5)
    queue.complete(jobs[0])
    queue.settle(jobs[1], "failed")
    queue.settle(jobs[2], "retry", retryInSeconds=60)
    queue.settle(jobs[3], "rate_limited", retryInSeconds=60)
    queue.record(jobs[4], 0)
    return batch_id, jobs


def test_cancel_ends_every_open_job_and_keeps_its_photos(queue: Queue) -> None:
    """Photos that were made stay; a photo that arrives later is not wanted."""
    batch_id, jobs = mixed_batch(queue)
    answer = queue.call("cancel_generation_batch", p_batch_id=batch_id)
    assert answer == {"batchId": batch_id, "status": "cancelled", "jobsCancelled": 4}
    assert queue.call("cancel_generation_batch", p_batch_id=batch_id) == answer | {"jobsCancelled": 0}
    assert queue.record(jobs[4], 1) == {"result": "job_final", "storagePath": None}
    assert queue.record(jobs[4], 0)["result"] == "already_recorded"
    assert queue.refuse(jobs[4], 1) == "job_final"
    assert queue.settle(jobs[4], "completed")["result"] == "lease_lost"
    assert queue.run().claim() == []
    statuses = [queue.job(job["id"])["status"] for job in jobs]
    assert statuses == ["completed", "failed", "cancelled", "cancelled", "cancelled"]
    assert queue.call("retry_failed_generation_jobs") == {"retried": 0}
    check_invariants(queue.connection)


def test_cancelling_an_ended_batch_changes_nothing(queue: Queue) -> None:
    """A batch that has ended stays as it is."""
    job = queue.claimed()
    queue.complete(job)
    answer = queue.call("cancel_generation_batch", p_batch_id=job["batchId"])
    assert (answer["status"], answer["jobsCancelled"]) == ("completed", 0)
    with refused("404", "no_such_batch"):
        queue.call("cancel_generation_batch", p_batch_id="nowhere")
    check_invariants(queue.connection)


def test_retry_waits_for_cancel(queue: Queue, another: Callable[[], Queue]) -> None:
    """A retry that waited for a cancel leaves the cancelled batch's failed jobs alone."""
    batch_id, jobs = mixed_batch(queue)
    watcher = another()
    queue.connection.execute("begin")
    queue.call("cancel_generation_batch", p_batch_id=batch_id)
    with blocked(another(), lambda on: on.call("retry_failed_generation_jobs"), watcher) as retry:
        queue.connection.execute("commit")
        assert retry.result() == {"retried": 0}
    assert queue.job(jobs[1]["id"])["status"] == "failed"
    check_invariants(queue.connection)


def test_a_batch_shows_its_counters_jobs_and_photos(queue: Queue) -> None:
    """With each job's status and reason."""
    batch_id, jobs = mixed_batch(queue)
    shown = queue.call("get_generation_batch", p_batch_id=batch_id)
    assert (shown["batch"]["status"], shown["batch"]["imagesDone"]) == ("generating", 3)
    assert [job["status"] for job in shown["jobs"]].count("pending") == 2
    assert shown["jobs"][1]["errorMessage"] == "It was failed."
    assert [(photo["jobId"], photo["imageIndex"]) for photo in shown["photos"]] == [
        (jobs[0]["id"], 0),
        (jobs[0]["id"], 1),
        (jobs[4]["id"], 0),
    ]
    with refused("404", "no_such_batch"):
        queue.call("get_generation_batch", p_batch_id="nowhere")


def test_stats_count_each_job_once_by_what_it_waits_for(queue: Queue, clock: Clock) -> None:
    """The counts add up to the number of jobs."""
    empty = queue.call("generation_queue_stats")
    assert (empty["ready"], empty["oldestReadySeconds"], empty["nextAttemptInSeconds"]) == (0, None, None)
    batch_id, _ = mixed_batch(queue)
    clock.advance(10)
    stats = queue.call("generation_queue_stats")
    counted = {key: stats[key] for key in ("ready", "waiting", "rateLimited", "processing", "stale")}
    assert counted == {"ready": 1, "waiting": 1, "rateLimited": 1, "processing": 1, "stale": 0}
    assert (stats["oldestReadySeconds"], stats["nextAttemptInSeconds"]) == (10, 50)
    day = stats["lastDay"]
    assert (day["completed"], day["failed"], day["failuresByCode"]) == (1, 1, {"failed": 1})
    assert stats["lastRun"]["finishedAt"] is None
    clock.advance(LEASE)
    queue.call("cancel_generation_batch", p_batch_id=batch_id)
    assert queue.call("generation_queue_stats")["lastDay"]["cancelled"] == 4
    clock.advance(24 * 3600 + 1)
    assert queue.call("generation_queue_stats")["lastDay"]["failuresByCode"] == {}


def test_the_first_successor_of_a_model_stays_until_it_is_forgotten(queue: Queue) -> None:
    """Two runs that learn of different successors do not overwrite each other."""

    def successor(of: str | None, to: str | None) -> Any:
        return queue.call("set_generation_model_successor", p_model=of, p_successor=to)["successor"]

    assert [successor("a", to) for to in ("b", "c", None, "c")] == ["b", "b", None, "c"]
    for model in ("a", None):
        with refused("400", "bad_successor"):
            successor(model, "a")


def test_the_schema_version_names_exactly_its_functions(queue: Queue) -> None:
    """A missing function makes another version."""
    assert queue.call("generation_schema_version") == {
        "version": SCHEMA_VERSION,
        "functions": FUNCTIONS,
        "functionsMissing": [],
        "photoBuckets": ["generated-photos", "training-photos"],
        "photoHosts": ["*"],
        "storageRefused": None,
    }


@pytest.mark.parametrize(("kept", "facts"), [(None, {}), (False, []), (True, None)])
def test_a_report_of_storage_that_says_nothing_is_refused(
    queue: Queue, kept: bool | None, facts: object
) -> None:
    """A report without the result or the image changes nothing."""
    remembered = queue.call("report_storage", p_kept=False, p_facts={"bytes": 7, "mimeType": "image/png"})
    with refused("400", "wrong_type"):
        queue.call("report_storage", p_kept=kept, p_facts=facts)
    assert queue.call("generation_schema_version")["storageRefused"] == remembered["storageRefused"]
