"""Restarted ids: what an earlier job left never counts for a later job with the same number."""

from collections.abc import Callable
from typing import Any, LiteralString

import pytest

from tests.support.queue_sql import Clock, Queue

RESTART: dict[str, LiteralString] = {
    "truncate": "truncate photo_generation_queue, photo_generation_batches restart identity",
    "delete and set back": """
        delete from photo_generation_queue; delete from photo_generation_batches;
        alter sequence photo_generation_queue_id_seq restart""",
}
IMAGES = 3


@pytest.fixture(params=RESTART)
def earlier(request: pytest.FixtureRequest, queue: Queue) -> dict[str, Any]:
    """Job 1 of a batch that is gone, and its number is free again; image 0 was made, image 1 refused."""
    job = queue.claimed(images=IMAGES)
    queue.record(job, 0, "old")
    queue.refuse(job, 1)
    queue.connection.execute(RESTART[request.param])
    return job


@pytest.fixture
def later(queue: Queue, earlier: dict[str, Any]) -> dict[str, Any]:
    """A new order's job, claimed; it has the number of the earlier one."""
    job = queue.claimed(images=IMAGES)
    assert job["id"] == earlier["id"] and job["batchId"] != earlier["batchId"]
    return job


def test_a_new_job_makes_all_its_images(queue: Queue, later: dict[str, Any]) -> None:
    """An order of three photos gets three new ones, whatever an earlier job of the number made."""
    assert later["missing"] == [0, 1, 2]
    queue.complete(later)
    batch = queue.batch(later["batchId"])
    assert (batch["status"], batch["imagesDone"], batch["imagesFailed"]) == ("completed", IMAGES, 0)


def test_peek_and_the_numbers_count_the_new_jobs_images(
    queue: Queue, clock: Clock, later: dict[str, Any]
) -> None:
    """An operator sees that all images of the new job are still to be made, also after a failed attempt."""
    queue.settle(later, "retry", retryInSeconds=0)
    assert queue.call("peek_generation_jobs")["jobs"][0]["images"] == IMAGES
    assert queue.call("generation_queue_stats")["due"]["images"] == IMAGES


def test_a_batch_lists_its_own_photos_only(
    queue: Queue, earlier: dict[str, Any], later: dict[str, Any]
) -> None:
    """The app shows under an order what was made for it; what the earlier one made stays where it was."""
    queue.record(later, 0, "new")
    (shown,) = queue.call("get_generation_batch", p_batch_id=later["batchId"])["photos"]
    assert shown["storagePath"].endswith("0-new")
    kept = queue.connection.execute('select "batchId" from photo_generation_photos order by id').fetchall()
    assert [row["batchId"] for row in kept] == [earlier["batchId"], later["batchId"]]


def test_a_job_without_images_fails_with_its_own_reason(queue: Queue, later: dict[str, Any]) -> None:
    """A new job does not complete by an earlier one's photos, nor fail by its refusals."""
    assert queue.settle(later, "failed", message="The photo cannot be read.")["status"] == "failed"
    assert queue.job(later["id"])["errorMessage"] == "The photo cannot be read."
    assert queue.counters(later["batchId"]) == (0, 1, 0, IMAGES)


def test_a_retry_takes_up_all_images(queue: Queue, later: dict[str, Any]) -> None:
    """A retry with the refused ones counts those of the job itself, so that its batch can end again."""
    queue.refuse(later, 2)
    queue.settle(later, "failed")
    assert queue.call("retry_failed_generation_jobs", p_including_refused=True) == {"retried": 1}
    assert queue.counters(later["batchId"]) == (0, 0, 0, 0)
    (again,) = queue.run().claim()
    assert again["missing"] == [0, 1, 2]
    assert queue.one("select count(*) as n from generation.failed_images")["n"] == 1


def test_a_crashed_job_is_judged_by_its_own_images(queue: Queue, clock: Clock, later: dict[str, Any]) -> None:
    """A job whose worker died is retried although an earlier one had all images of its number."""
    clock.advance(300)
    (again,) = queue.run().claim()
    assert again["missing"] == [0, 1, 2]


Late = Callable[[Queue, dict[str, Any]], str]


@pytest.mark.parametrize(
    "arrive", [lambda q, j: q.record(j, 2)["result"], lambda q, j: q.refuse(j, 2)], ids=["photo", "refusal"]
)
def test_a_late_result_of_the_earlier_job_is_not_wanted(
    queue: Queue, earlier: dict[str, Any], later: dict[str, Any], arrive: Late
) -> None:
    """A worker that still makes the earlier job's images changes nothing of the later one's."""
    assert arrive(queue, earlier) == "job_final"
    assert queue.counters(later["batchId"]) == (0, 0, 0, 0)
    assert queue.one("select count(*) as n from photo_generation_photos")["n"] == 1


def test_a_recorded_photo_still_says_so(queue: Queue, earlier: dict[str, Any], later: dict[str, Any]) -> None:
    """A worker whose answer was lost learns that its photo counts, and does not remove its object."""
    assert queue.record(earlier, 0, "old")["storagePath"].endswith("0-old")


def test_a_sweep_spares_and_names_the_new_jobs_photos(
    queue: Queue, clock: Clock, later: dict[str, Any]
) -> None:
    """A sweep of the new job's folder is given the photos in it."""
    queue.record(later, 0, "new")
    queue.settle(later, "failed")
    clock.advance(601)
    (swept,) = queue.call("generation_jobs_to_sweep")["jobs"]
    assert [path.rpartition("/")[2] for path in swept["recorded"]] == ["0-new"]


def test_an_erasure_keeps_other_users_refusals(queue: Queue, earlier: dict[str, Any]) -> None:
    """To erase a user removes what belongs to the user's own jobs."""
    job = queue.claimed(user_id="user-2", images=IMAGES)
    queue.refuse(job, 0)
    queue.call("erase_generation_user", p_user_id="user-2")
    left = queue.one('select "batchId" from generation.failed_images')
    assert left["batchId"] == earlier["batchId"]
