"""Users' folders in Storage, repeated claims, and orders with invalid ids or references."""

from uuid import uuid4

import pytest

from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Queue, refused


@pytest.mark.parametrize("user_id", ["a/b", "..", ".", "a\tb", "ü", "a b", "a?b"])
def test_an_id_that_makes_no_valid_folder_is_refused(queue: Queue, user_id: str) -> None:
    """Such an id would lead into another user's folder, or into none."""
    with refused("400", "bad_id"):
        queue.enqueue(user_id, trainingImageUrls=["https://photos.example.com/me.jpg"])
    assert queue.one("select count(*) as n from photo_generation_queue")["n"] == 0


def test_an_id_of_another_provider_has_a_unique_valid_folder(queue: Queue) -> None:
    """Auth0's `auth0|1` has such a folder, and no other id can use it."""
    reference = "training-photos/auth0=7C1/me.jpg"
    queue.enqueue("auth0|1", trainingImageUrls=[reference])
    (job,) = queue.run().claim()
    assert job["userFolder"] == "auth0=7C1"
    assert queue.record(job, 0)["result"] == "recorded"
    with refused("400", "foreign_photo", "trainingImageUrls[0]"):
        queue.enqueue("auth0=7C1", trainingImageUrls=[reference])
    check_invariants(queue.connection)


def test_a_repeated_claim_gets_no_new_jobs(queue: Queue) -> None:
    """A claim that is repeated after its jobs were settled gets nothing: an old fence never gets new jobs."""
    queue.enqueue(examples=3)
    run, claim_id = queue.run(), uuid4()
    first = run.claim(1, claim_id)
    queue.record(first[0], 0)
    queue.settle(first[0], "completed")
    assert run.claim(1, claim_id) == []
    assert len(run.claim(5)) == 2
    check_invariants(queue.connection)


def test_an_insert_into_a_cancelled_batch_is_refused(queue: Queue) -> None:
    """The batch stays cancelled, and the error says so."""
    answer = queue.enqueue()
    queue.call("cancel_generation_batch", p_batch_id=answer["batchId"])
    with refused("409", "batch_cancelled"):
        queue.connection.execute(
            """insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt")
            values (%s, 'user-1', 'https://photos.example.com/1.jpg', 'A portrait')""",
            [answer["batchId"]],
        )
    check_invariants(queue.connection)


@pytest.mark.parametrize(
    "reference", ["https://photos.example.com/a\nb.jpg", "training-photos/user-1/a\tb.jpg"]
)
def test_control_characters_in_a_reference_are_refused(queue: Queue, reference: str) -> None:
    """The order is refused, so the caller can still fix it."""
    with refused("400", "control_characters", "trainingImageUrls[0]"):
        queue.enqueue(trainingImageUrls=[reference])


def test_a_space_in_a_file_name_is_accepted(queue: Queue) -> None:
    """People's files have spaces in their names, and Storage accepts them."""
    assert queue.enqueue(trainingImageUrls=["training-photos/user-1/my photo.jpg"])["jobsEnqueued"] == 1
