"""What pruning removes and what it never touches, and that it works beside everything else."""

from collections.abc import Callable
from typing import Any

from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Clock, Queue, blocked, order, refused

DAY = 24 * 3600
NOTHING = {
    "jobsRemoved": 0,
    "batchesRemoved": 0,
    "runsRemoved": 0,
    "keysRemoved": 0,
    "more": False,
    "unswept": 0,
}


def prune(queue: Queue, days: int = 30, limit: int = 1000) -> dict[str, Any]:
    """The answer of pruning."""
    answer: dict[str, Any] = queue.call("prune_generation_history", p_older_than_days=days, p_limit=limit)
    return answer


def completed(queue: Queue, **fields: Any) -> dict[str, Any]:
    """A job completed under its only claim, whose run has ended."""
    queue.enqueue(**fields)
    run = queue.run()
    (job,) = run.claim()
    queue.complete(job)
    run.finish()
    return job


def sweep(queue: Queue) -> None:
    """Tells that every folder was swept."""
    jobs = [job["id"] for job in queue.call("generation_jobs_to_sweep", p_limit=1000)["jobs"]]
    queue.call("settle_swept_generation_jobs", p_job_ids=jobs)


def rows(queue: Queue, table: str) -> int:
    """How many rows a table has."""
    return int(queue.one(f"select count(*) as n from {table}".encode())["n"])


def test_what_ended_long_ago_goes_and_photos_stay(queue: Queue, clock: Clock) -> None:
    """Jobs, failed images, batch and run go thirty days after their end; rows of photos stay."""
    queue.enqueue(images=3)
    run = queue.run()
    (job,) = run.claim()
    queue.refuse(job, 1)
    queue.record(job, 0)
    queue.record(job, 2)
    queue.settle(job, "completed")
    run.finish()
    photos = queue.connection.execute("select * from photo_generation_photos order by id").fetchall()
    clock.advance(30 * DAY)
    completed(queue, user_id="later")
    assert prune(queue) == NOTHING
    clock.advance(300)
    expected = NOTHING | {"jobsRemoved": 1, "batchesRemoved": 1, "runsRemoved": 1}
    assert prune(queue) == expected
    assert prune(queue) == NOTHING
    assert rows(queue, "generation.failed_images") == 0
    kept = queue.connection.execute(
        "select * from photo_generation_photos where \"userId\" <> 'later' order by id"
    ).fetchall()
    assert kept == photos
    assert queue.record(job, 0) == {"result": "already_recorded", "storagePath": photos[0]["storagePath"]}
    assert queue.record(job, 1) == {"result": "job_final", "storagePath": None}
    check_invariants(queue.connection)


def test_what_has_not_been_swept_stays(queue: Queue, clock: Clock) -> None:
    """A job whose folder waits to be swept stays, with its batch, and is counted."""
    queue.enqueue(examples=2)
    good, bad = queue.run().claim()
    queue.complete(good)
    queue.settle(bad, "failed")
    clock.advance(31 * DAY)
    assert prune(queue) == NOTHING | {"unswept": 1}
    completed(queue)
    clock.advance(31 * DAY)
    assert prune(queue, limit=1)["batchesRemoved"] == 1, "what cannot go holds up what can"
    given = queue.call("generation_jobs_to_sweep")["jobs"]
    assert prune(queue)["batchesRemoved"] == 0
    queue.call("settle_swept_generation_jobs", p_job_ids=[job["id"] for job in given])
    assert (prune(queue)["jobsRemoved"], rows(queue, "photo_generation_photos")) == (2, 2)
    check_invariants(queue.connection)


def test_batches_go_as_a_whole(queue: Queue, clock: Clock) -> None:
    """An open batch, or one that was retried, keeps all of its jobs, however old."""
    queue.enqueue(examples=2)
    done, open_job = queue.run().claim()
    queue.complete(done)
    queue.settle(open_job, "rate_limited", retryInSeconds=7 * DAY)
    clock.advance(90 * DAY)
    assert prune(queue)["jobsRemoved"] == 0
    (again,) = queue.run().claim()
    queue.settle(again, "failed")
    clock.advance(31 * DAY)
    sweep(queue)
    assert queue.call("retry_failed_generation_jobs") == {"retried": 1}
    assert prune(queue)["jobsRemoved"] == 0
    check_invariants(queue.connection)


def test_cancelled_and_empty_batches_go(queue: Queue, clock: Clock) -> None:
    """Cancelled batches go like others, and so does one whose jobs an operator has deleted."""
    queue.call("cancel_generation_batch", p_batch_id=queue.enqueue()["batchId"])
    emptied = completed(queue)["batchId"]
    queue.connection.execute('delete from photo_generation_queue where "batchId" = %s', [emptied])
    clock.advance(31 * DAY)
    answer = prune(queue)
    assert (answer["jobsRemoved"], answer["batchesRemoved"]) == (1, 2)


def test_keys_outlive_their_orders(queue: Queue, clock: Clock) -> None:
    """A key answers as before while its order can be seen and 60 days longer, 90 days at least."""
    request = order()
    enqueue = {"p_request": request, "p_idempotency_key": "k"}
    first = queue.call("enqueue_generation_batch", **enqueue)
    (job,) = queue.run().claim()
    queue.complete(job)
    clock.advance(31 * DAY)
    assert (prune(queue)["jobsRemoved"], prune(queue)["keysRemoved"]) == (1, 0)
    assert queue.call("enqueue_generation_batch", **enqueue) == first | {"created": False}
    clock.advance(59 * DAY)
    assert prune(queue, days=1)["keysRemoved"] == 0
    clock.advance(1)
    assert prune(queue, days=31)["keysRemoved"] == 0
    assert prune(queue)["keysRemoved"] == 1
    assert queue.call("enqueue_generation_batch", **enqueue)["created"] is True


def test_a_key_whose_batch_is_there_stays(queue: Queue, clock: Clock) -> None:
    """A key is kept as long as its batch exists, however old it is."""
    queue.call("enqueue_generation_batch", p_request=order(), p_idempotency_key="k")
    clock.advance(400 * DAY)
    assert prune(queue)["keysRemoved"] == 0


def test_old_runs_are_pruned_except_the_last(queue: Queue, clock: Clock) -> None:
    """The last run stays, since it says when the queue was last processed."""
    for _ in range(3):
        completed(queue)
        clock.advance(1)
    queue.claimed()
    clock.advance(60 * DAY)
    assert prune(queue)["runsRemoved"] == 3
    assert queue.call("generation_queue_stats")["lastRun"]["finishedAt"] is None


def test_one_prune_call_removes_a_bounded_number_and_says_if_more_remain(queue: Queue, clock: Clock) -> None:
    """The next call continues."""
    for _ in range(5):
        completed(queue)
        clock.advance(1)
    queue.enqueue(examples=7)
    for job in queue.run().claim():
        queue.complete(job)
    clock.advance(31 * DAY)
    answers = [prune(queue, limit=2) for _ in range(5)]
    assert [answer["jobsRemoved"] for answer in answers] == [2, 2, 8, 0, 0]
    assert [answer["runsRemoved"] for answer in answers] == [2, 2, 1, 0, 0]
    assert [answer["more"] for answer in answers] == [True, True, True, False, False]
    for days, limit in ((0, 1), (36501, 1), (None, 1), (1, 0), (1, 100_001), (1, None)):
        with refused("400", "out_of_range"):
            queue.call("prune_generation_history", p_older_than_days=days, p_limit=limit)


def test_jobs_that_somebody_holds_are_left(queue: Queue, another: Callable[[], Queue], clock: Clock) -> None:
    """A batch with a locked job is skipped as a whole, without waiting."""
    queue.enqueue(examples=2)
    for job in queue.run().claim():
        queue.complete(job)
    clock.advance(31 * DAY)
    holder = another()
    with holder.connection.transaction():
        holder.connection.execute("select from photo_generation_queue order by id limit 1 for no key update")
        assert prune(queue)["jobsRemoved"] == 0
    assert prune(queue)["jobsRemoved"] == 2


def test_an_insert_into_an_old_batch_saves_it(
    queue: Queue, another: Callable[[], Queue], clock: Clock
) -> None:
    """Pruning waits for an insert into an ended batch, and then leaves the batch, which is open again."""
    job = completed(queue)
    clock.advance(31 * DAY)
    watcher = another()
    queue.connection.execute("begin")
    queue.connection.execute(
        'insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt",'
        " \"numImagesPerExample\") values (%s, 'user-1', 'https://photos.example.com/a', 'x', 1)",
        [job["batchId"]],
    )
    with blocked(another(), prune, watcher) as pruning:
        queue.connection.execute("commit")
        assert pruning.result()["batchesRemoved"] == 0
    assert queue.batch(job["batchId"])["status"] == "generating"
    check_invariants(queue.connection)
