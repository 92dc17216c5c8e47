"""Which folders a sweep is given, and what it must never remove."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.queue_sql import Clock, Queue, blocked, refused

TEN_MINUTES = 600
THREE_MINUTES = 180


def folder_of(job: dict[str, Any]) -> str:
    """The folder of a job's objects."""
    return f"{job['userFolder']}/{job['batchId']}/{job['id']}"


def to_sweep(queue: Queue, limit: int = 100) -> list[int]:
    """The ids of the jobs that a sweep is given."""
    return [job["id"] for job in queue.call("generation_jobs_to_sweep", p_limit=limit)["jobs"]]


def settle(queue: Queue, *jobs: int) -> int:
    """Tells that folders were swept; how many counted."""
    return int(queue.call("settle_swept_generation_jobs", p_job_ids=list(jobs))["swept"])


def failed(queue: Queue, **fields: Any) -> dict[str, Any]:
    """A job that failed under its first claim."""
    job = queue.claimed(**fields)
    assert queue.settle(job, "failed")["status"] == "failed"
    return job


def second_claim(queue: Queue) -> dict[str, Any]:
    """A job that was released and claimed again."""
    first = queue.claimed()
    queue.settle(first, "released", attemptSpent=False)
    (again,) = queue.run().claim()
    assert again["id"] == first["id"]
    return again


def test_a_failed_job_is_swept_with_what_is_recorded(queue: Queue, clock: Clock) -> None:
    """After ten minutes a sweep is given the job's folder and the paths of its photos."""
    job = queue.claimed(images=2)
    queue.record(job, 1)
    queue.settle(job, "failed")
    clock.advance(TEN_MINUTES - 1)
    assert to_sweep(queue) == []
    clock.advance(1)
    answer = queue.call("generation_jobs_to_sweep")
    (given,) = answer["jobs"]
    recorded = [f"{folder_of(job)}/1-a"]
    assert given == {"id": job["id"], "folder": folder_of(job), "recorded": recorded}
    assert answer["seconds"] == THREE_MINUTES
    assert settle(queue, job["id"]) == 1
    clock.advance(3600)
    assert to_sweep(queue) == []
    assert settle(queue, job["id"]) == 0


def test_only_ended_jobs_that_may_have_left_something(queue: Queue, clock: Clock) -> None:
    """Jobs never claimed, completed at the first attempt, or still open are not swept."""
    queue.complete(queue.claimed())
    cancelled_unclaimed = queue.enqueue()["batchId"]
    queue.call("cancel_generation_batch", p_batch_id=cancelled_unclaimed)
    waiting = queue.claimed()
    queue.settle(waiting, "retry", retryInSeconds=100_000)
    twice = second_claim(queue)
    queue.complete(twice)
    late = queue.claimed()
    queue.call("cancel_generation_batch", p_batch_id=late["batchId"])
    clock.advance(TEN_MINUTES)
    queue.claimed()
    assert to_sweep(queue) == [twice["id"], late["id"]]


def test_claims_are_never_given_back(queue: Queue) -> None:
    """A released job gets its attempt back, but the claim under which it may have stored something counts."""
    job = queue.claimed()
    queue.settle(job, "released", attemptSpent=False)
    row = queue.job(job["id"])
    assert (row["attempts"], row["claims"]) == (0, 1)
    queue.run().claim()
    queue.call("release_stale_generation_jobs", p_older_than_seconds=-1)
    assert queue.job(job["id"])["claims"] == 2


def test_a_repeated_claim_counts_once(queue: Queue) -> None:
    """A repeated claim gives the same jobs to the same worker."""
    queue.enqueue()
    run = queue.run()
    claim = run.id
    assert run.claim(1, claim) == run.claim(1, claim)
    assert queue.one("select claims from photo_generation_queue")["claims"] == 1


def test_retried_jobs_are_swept_again(queue: Queue, clock: Clock) -> None:
    """Objects that a swept job stores after a retry are found too."""
    job = failed(queue)
    clock.advance(TEN_MINUTES)
    assert settle(queue, *to_sweep(queue)) == 1
    assert queue.call("retry_failed_generation_jobs") == {"retried": 1}
    assert queue.job(job["id"])["sweptAt"] is None
    (again,) = queue.run().claim()
    queue.complete(again)
    clock.advance(TEN_MINUTES)
    assert to_sweep(queue) == [job["id"]]


def test_a_job_reset_by_hand_is_swept_again(queue: Queue, clock: Clock) -> None:
    """Any claim makes its folder due for another sweep, however the job became ready."""
    job = failed(queue)
    clock.advance(TEN_MINUTES)
    assert settle(queue, *to_sweep(queue)) == 1
    queue.connection.execute("""
        update photo_generation_queue set status = 'pending', "completedAt" = null;
        update photo_generation_batches set "jobsFailed" = 0, "imagesFailed" = 0""")
    (again,) = queue.run().claim()
    queue.settle(again, "failed")
    clock.advance(TEN_MINUTES)
    assert to_sweep(queue) == [job["id"]]


def test_a_retry_waits_for_the_sweep(queue: Queue, clock: Clock) -> None:
    """A job whose folder is being swept is not claimed before: it could adopt what is being removed."""
    job = failed(queue)
    clock.advance(TEN_MINUTES)
    assert to_sweep(queue) == [job["id"]]
    assert queue.call("retry_failed_generation_jobs") == {"retried": 1}
    clock.advance(THREE_MINUTES - 1)
    assert queue.run().claim() == []
    clock.advance(1)
    (again,) = queue.run().claim()
    queue.settle(again, "failed")
    assert settle(queue, job["id"]) == 0
    assert queue.job(job["id"])["sweptAt"] is None


@pytest.mark.parametrize("swept", [False, True])
def test_a_retry_costs_one_turn_also_during_a_sweep(queue: Queue, clock: Clock, swept: bool) -> None:
    """Waiting for the sweep costs no additional turn for the user's later orders."""
    failed(queue, images=3)
    clock.advance(TEN_MINUTES)
    assert len(to_sweep(queue)) == 1
    if not swept:
        clock.advance(THREE_MINUTES)
    assert queue.call("retry_failed_generation_jobs") == {"retried": 1}
    clock.advance(THREE_MINUTES)
    assert len(queue.run().claim()) == 1
    assert queue.one('select "lastTag" as tag from generation.flows')["tag"] == 3 + 3


def test_a_late_sweep_settles_nothing(queue: Queue, clock: Clock) -> None:
    """A sweep that took longer than it may has not swept; the job is given to another."""
    job = failed(queue)
    clock.advance(TEN_MINUTES)
    assert to_sweep(queue) == [job["id"]]
    assert to_sweep(queue) == []
    clock.advance(THREE_MINUTES)
    assert settle(queue, job["id"]) == 0
    assert to_sweep(queue) == [job["id"]]


def test_folders_that_cannot_be_swept_hold_nobody_up(queue: Queue, clock: Clock) -> None:
    """Folders that a sweep failed on come after those not tried yet."""
    first, second, third = (failed(queue)["id"] for _ in range(3))
    clock.advance(TEN_MINUTES)
    assert to_sweep(queue, 2) == [first, second]
    clock.advance(THREE_MINUTES)
    assert to_sweep(queue, 2) == [first, third]
    assert to_sweep(queue, 2) == [second]


def test_a_sweep_gets_at_most_the_jobs_it_asks_for(queue: Queue, clock: Clock) -> None:
    """The number itself is limited too."""
    queue.enqueue(examples=5)
    for job in queue.run().claim():
        queue.settle(job, "failed")
    clock.advance(TEN_MINUTES)
    assert [len(to_sweep(queue, 2)) for _ in range(4)] == [2, 2, 1, 0]
    for limit in (0, 1001, None):
        with refused("400", "out_of_range"):
            queue.call("generation_jobs_to_sweep", p_limit=limit)
    with refused("400", "wrong_type"):
        queue.call("settle_swept_generation_jobs", p_job_ids={"a": 1})


def test_two_sweeps_share(queue: Queue, another: Callable[[], Queue], clock: Clock) -> None:
    """Two sweeps at once are given different jobs, and neither waits for the other or for a retry."""
    jobs = [failed(queue)["id"] for _ in range(3)]
    clock.advance(TEN_MINUTES)
    first, second, third = another(), another(), another()
    with first.connection.transaction(), second.connection.transaction(), third.connection.transaction():
        third.connection.execute("select from photo_generation_queue where id = %s for update", [jobs[1]])
        assert to_sweep(first, 1) == [jobs[0]]
        assert to_sweep(second) == [jobs[2]]
    assert to_sweep(queue) == [jobs[1]]


def test_a_sweep_and_a_retry_at_once(queue: Queue, another: Callable[[], Queue], clock: Clock) -> None:
    """A retry that comes while a sweep takes the job waits for it, and then puts the job off."""
    job = failed(queue)
    clock.advance(TEN_MINUTES)
    watcher = another()
    queue.connection.execute("begin")
    assert to_sweep(queue) == [job["id"]]
    with blocked(another(), lambda on: on.call("retry_failed_generation_jobs"), watcher) as retry:
        queue.connection.execute("commit")
        assert retry.result() == {"retried": 1}
    assert queue.job(job["id"])["retryAt"] is not None
    assert queue.run().claim() == []


def test_a_zombie_is_harmless(queue: Queue, clock: Clock) -> None:
    """A worker that comes back after all of it records and settles nothing, also once its job is swept."""
    zombie = queue.claimed(images=2)
    clock.advance(291)
    (heir,) = queue.run().claim()
    queue.record(heir, 0)
    queue.settle(heir, "failed")
    before = queue.job(zombie["id"]), queue.counters(zombie["batchId"])

    def come_back() -> None:
        assert queue.record(zombie, 1) == {"result": "job_final", "storagePath": None}
        assert queue.record(zombie, 0, "b")["result"] == "already_recorded"
        assert queue.refuse(zombie, 1) == "job_final"
        assert queue.settle(zombie, "completed")["result"] == "lease_lost"

    come_back()
    assert (queue.job(zombie["id"]), queue.counters(zombie["batchId"])) == before
    clock.advance(TEN_MINUTES)
    (given,) = queue.call("generation_jobs_to_sweep")["jobs"]
    assert given["recorded"] == [f"{folder_of(zombie)}/0-a"]
    come_back()
    assert settle(queue, zombie["id"]) == 1
    come_back()


@pytest.mark.parametrize("ids", [("a/b", "c"), ("..", "c"), ("a", ".."), ("a", "b/c")])
def test_ids_that_name_no_folder(queue: Queue, clock: Clock, ids: tuple[str, str]) -> None:
    """An old row whose ids reach into another folder is never looked into, and counts as swept."""
    job = failed(queue)["id"]
    queue.connection.execute(
        'insert into photo_generation_batches (id, "userId") values (%s, %s)', [ids[1], ids[0]]
    )
    queue.connection.execute('update photo_generation_queue set "userId" = %s, "batchId" = %s', list(ids))
    clock.advance(TEN_MINUTES)
    assert to_sweep(queue) == []
    assert queue.job(job)["sweptAt"] == clock.now
