"""Recording images: until the job ends, the first record of an image counts, with or without the lease."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Clock, Queue, blocked, refused


def photos(queue: Queue) -> list[tuple[int, str]]:
    """The recorded images: index and the last part of the path."""
    rows = queue.connection.execute('select * from photo_generation_photos order by "imageIndex"').fetchall()
    return [(row["imageIndex"], row["storagePath"].rpartition("/")[2]) for row in rows]


def test_first_writer_wins(queue: Queue) -> None:
    """The first record of an image counts; a second writer gets the path of the first."""
    job = queue.claimed(images=2)
    first = queue.record(job, 0, "a")
    assert first["result"] == "recorded"
    for name in ("a", "b"):
        assert queue.record(job, 0, name) == first | {"result": "already_recorded"}
    assert photos(queue) == [(0, "0-a")]
    assert queue.counters(job["batchId"]) == (0, 0, 1, 0)
    check_invariants(queue.connection)


def test_all_that_is_known_is_stored(queue: Queue, clock: Clock) -> None:
    """A photo's row has its owner, size, model, tokens and time; an unknown value is null."""
    job = queue.claimed(images=2)
    queue.record(
        job, 0, width=832, height=1248, bytes=99, promptTokens=7, outputTokens=1290, generationMs=5100
    )
    queue.record(job, 1, generationMs=None)
    first, second = queue.connection.execute("select * from photo_generation_photos order by id").fetchall()
    told = {"jobId": job["id"], "batchId": job["batchId"], "userId": job["userId"], "createdAt": clock.now}
    told |= {"width": 832, "height": 1248, "bytes": 99, "mimeType": "image/png", "model": "model"}
    told |= {"promptTokens": 7, "outputTokens": 1290, "generationMs": 5100}
    assert {key: first[key] for key in told} == told
    assert (second["promptTokens"], second["generationMs"]) == (None, None)


@pytest.mark.parametrize("index", [-1, 2, None])
def test_an_image_index_that_the_job_does_not_have_is_refused(queue: Queue, index: int | None) -> None:
    """The index is refused for a made image and for a failed one."""
    job = queue.claimed(images=2)
    with refused("400", "out_of_range", "image index"):
        queue.call("record_generated_photo", p_job_id=job["id"], p_image_index=index, p_photo={})
    with refused("400", "out_of_range", "image index"):
        queue.call("record_failed_image", p_job_id=job["id"], p_image_index=index, p_code="c", p_message="m")
    check_invariants(queue.connection)


@pytest.mark.parametrize(
    "path", [None, "", "0-a", "user-2/{batchId}/{id}/0-a", "{userId}/{batchId}/{id}0/0-a"]
)
def test_a_photo_must_be_in_its_jobs_folder(queue: Queue, path: str | None) -> None:
    """Any other path is refused."""
    job = queue.claimed()
    with refused("400", "bad_path", "storagePath"):
        queue.record(job, 0, storagePath=path and path.format(**job))
    assert photos(queue) == []
    check_invariants(queue.connection)


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_nothing_is_recorded_for_an_ended_job(queue: Queue, end: str) -> None:
    """Records from before the end are still confirmed."""
    job = queue.claimed(images=2)
    first = queue.record(job, 0)
    if end == "cancelled":
        queue.call("cancel_generation_batch", p_batch_id=job["batchId"])
    else:
        if end == "completed":
            queue.refuse(job, 1)
        queue.settle(job, end)
    assert queue.job(job["id"])["status"] == end
    assert queue.record(job, 1) == {"result": "job_final", "storagePath": None}
    assert queue.record(job, 0, "b") == first | {"result": "already_recorded"}
    assert queue.refuse(job, 1) == "job_final"
    assert photos(queue) == [(0, "0-a")]
    check_invariants(queue.connection)


def test_a_job_that_no_longer_exists_wants_no_images(queue: Queue) -> None:
    """The answer is `job_final`, so the worker removes the image."""
    nowhere = {"id": 10**12, "userFolder": "u", "batchId": "b"}
    assert queue.record(nowhere, 0)["result"] == "job_final"
    assert queue.refuse(nowhere, 0) == "job_final"


def test_an_image_given_up_and_then_made_counts_as_made(queue: Queue) -> None:
    """The batch's counters move the image from failed to made."""
    job = queue.claimed()
    assert [queue.refuse(job, 0), queue.refuse(job, 0, "recitation")] == ["recorded", "already_recorded"]
    assert queue.counters(job["batchId"]) == (0, 0, 0, 1)
    assert queue.record(job, 0)["result"] == "recorded"
    assert queue.counters(job["batchId"]) == (0, 0, 1, 0)
    assert queue.settle(job, "completed")["status"] == "completed"
    check_invariants(queue.connection)


def test_an_image_that_was_made_cannot_be_given_up(queue: Queue) -> None:
    """The answer says that the image is already recorded; the counters stay."""
    job = queue.claimed()
    queue.record(job, 0)
    assert queue.refuse(job, 0) == "already_recorded"
    assert queue.counters(job["batchId"]) == (0, 0, 1, 0)
    check_invariants(queue.connection)


def test_an_image_of_a_worker_without_the_lease_is_kept(queue: Queue, clock: Clock) -> None:
    """The image is recorded, so it is not paid for again."""
    job = queue.claimed(images=2)
    clock.advance(255)
    (again,) = queue.run().claim()
    assert queue.record(job, 0, "old")["result"] == "recorded"
    assert queue.record(again, 0, "new")["storagePath"].endswith("0-old")
    assert queue.settle(job, "completed")["result"] == "lease_lost"
    queue.record(again, 1)
    assert queue.settle(again, "completed")["status"] == "completed"
    check_invariants(queue.connection)


def test_an_image_that_arrives_while_its_job_waits_is_recorded(queue: Queue) -> None:
    """The next claim does not list the image as missing."""
    job = queue.claimed(images=2)
    queue.settle(job, "released")
    queue.record(job, 1)
    assert queue.run().claim()[0]["missing"] == [0]


Act = Callable[[Queue, dict[str, Any]], Any]


def make(queue: Queue, job: dict[str, Any]) -> Any:
    """Record image 0 as made, under another name."""
    return queue.record(job, 0, "second")["result"]


def give_up(queue: Queue, job: dict[str, Any]) -> Any:
    """Record image 0 as given up."""
    return queue.refuse(job, 0)


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("second", [make, give_up])
def test_two_concurrent_records_make_one_row(
    queue: Queue, another: Callable[[], Queue], second: Act, end: str
) -> None:
    """The first record counts if it is committed; otherwise the second one does."""
    job = queue.claimed()
    watcher = another()
    queue.connection.execute("begin")
    assert queue.record(job, 0, "first")["result"] == "recorded"
    with blocked(another(), lambda other: second(other, job), watcher) as late:
        queue.connection.execute(end)
        assert late.result() == ("already_recorded" if end == "commit" else "recorded")
    assert len(photos(queue)) == (0 if end == "rollback" and second is give_up else 1)
    check_invariants(queue.connection)


def test_record_waits_for_cancel(queue: Queue, another: Callable[[], Queue]) -> None:
    """If its batch is being cancelled, an image is answered with `job_final`."""
    job = queue.claimed()
    watcher = another()
    queue.connection.execute("begin")
    queue.call("cancel_generation_batch", p_batch_id=job["batchId"])
    with blocked(another(), lambda other: other.record(job, 0), watcher) as late:
        queue.connection.execute("commit")
        assert late.result()["result"] == "job_final"
    check_invariants(queue.connection)


def test_the_table_allows_each_image_of_a_job_once(queue: Queue) -> None:
    """A unique constraint enforces this, also outside the functions."""
    job = queue.claimed()
    queue.record(job, 0)
    copy = """insert into photo_generation_photos ("jobId", "batchId", "userId", "imageIndex", "storagePath",
        "mimeType", width, height, bytes, model) select "jobId", "batchId", "userId", "imageIndex", 'other',
        "mimeType", width, height, bytes, model from photo_generation_photos"""
    with pytest.raises(psycopg.errors.UniqueViolation):
        queue.connection.execute(copy)
