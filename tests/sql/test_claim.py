"""Claim: who gets which jobs, in which order, for how long, and what the answer says when there are none."""

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest

from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import USER, Clock, Queue, blocked, refused


def test_a_claim_gives_at_most_the_jobs_asked_for(queue: Queue) -> None:
    """A claim gives at most the number asked for; each job has its lock and one more attempt."""
    queue.enqueue(examples=5)
    run = queue.run("w@1")
    jobs = run.claim(2)
    assert [job["attempts"] for job in jobs] == [1, 1]
    row = queue.job(jobs[0]["id"])
    assert (row["status"], row["lockedBy"]) == ("processing", jobs[0]["fence"])
    assert jobs[0]["fence"].startswith(f"w@1/{run.id}/")
    assert queue.one("select count(*) as n from photo_generation_queue where attempts = 0")["n"] == 3


@pytest.mark.parametrize(("run_seconds", "lease"), [(1, 16), (60.5, 75.5), (240, 255), (270, 285)])
def test_a_lease_ends_15_seconds_after_the_run(
    queue: Queue, clock: Clock, run_seconds: float, lease: float
) -> None:
    """A lease is the rest of the run plus 15 s, and always shorter than the runbook's five minutes."""
    queue.enqueue()
    (job,) = queue.run().answer(p_run_seconds=run_seconds)["jobs"]
    row = queue.job(job["id"])
    assert row["leaseExpiresAt"] - row["lockedAt"] == timedelta(seconds=lease)
    assert lease <= 290
    assert row["lockedAt"] == row["startedAt"] == clock.now


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"p_worker_id": None}, "p_worker_id"),
        ({"p_worker_id": "a/b"}, "p_worker_id"),
        ({"p_worker_id": "x" * 101}, "p_worker_id"),
        ({"p_claim_id": None}, "p_claim_id"),
        ({"p_max_jobs": 0}, "p_max_jobs"),
        ({"p_max_jobs": None}, "p_max_jobs"),
        ({"p_max_jobs": 1001}, "p_max_jobs"),
        ({"p_run_seconds": 0.5}, "p_run_seconds"),
        ({"p_run_seconds": 271}, "p_run_seconds"),
        ({"p_skip_users": {"user": 1}}, "p_skip_users"),
        ({"p_max_images": 0}, "p_max_images"),
    ],
)
def test_a_claims_parameters_are_checked(queue: Queue, changes: dict[str, object], field: str) -> None:
    """A run cannot be longer than the runbook allows."""
    reasons = {"p_worker_id": "bad_worker_id", "p_claim_id": "missing", "p_skip_users": "wrong_type"}
    reason = reasons.get(field, "out_of_range")
    queue.enqueue()
    with refused("400", reason, field):
        parameters: dict[str, object] = {
            "p_run_id": uuid4(),
            "p_worker_id": "w",
            "p_claim_id": uuid4(),
            "p_max_jobs": 1,
            "p_run_seconds": 60,
            "p_model": "m",
        }
        queue.call("claim_generation_jobs", **(parameters | changes))
    assert queue.one("select status from photo_generation_queue")["status"] == "pending"


def test_a_repeated_claim_gives_the_same_jobs_and_spends_no_attempt(queue: Queue) -> None:
    """The first answer was lost."""
    queue.enqueue(examples=5)
    run, claim = queue.run(), uuid4()
    first = run.answer(2, claim)
    assert run.answer(2, claim) == first
    assert len(run.claim(5)) == 3


def test_repeated_claim_at_once(queue: Queue, another: Callable[[], Queue]) -> None:
    """A claim repeated while the first is still running waits for it and gets its jobs."""
    queue.enqueue(examples=4)
    run, claim, watcher = queue.run(), uuid4(), another()
    queue.connection.execute("begin")
    first = run.answer(2, claim)

    def repeat(other: Queue) -> object:
        same = other.run()
        same.id = run.id
        return same.answer(2, claim)

    with blocked(another(), repeat, watcher) as second:
        queue.connection.execute("commit")
        assert second.result() == first


def test_two_claims_at_once_get_different_jobs_without_waiting(
    queue: Queue, another: Callable[[], Queue]
) -> None:
    """Neither claim blocks the other."""
    queue.enqueue(examples=8)
    other = another()
    # The first claim of a run waits its turn: it takes a place among the runs at once.
    ours, theirs = queue.run(), other.run()
    assert (len(ours.claim(1)), len(theirs.claim(1))) == (1, 1)
    queue.connection.execute("begin")
    first = ours.claim(4)
    second = theirs.claim(4)
    queue.connection.execute("commit")
    assert (len(first), len(second)) == (4, 2)
    assert not {job["id"] for job in first} & {job["id"] for job in second}


def test_a_claim_is_busy_if_another_is_taking_every_ready_job(
    queue: Queue, another: Callable[[], Queue]
) -> None:
    """The claim is not told to wait for itself."""
    queue.enqueue(examples=3)
    other = another()
    ours, theirs = queue.run(), other.run()
    queue.complete(theirs.claim(1)[0])
    ours.claim(1)
    queue.connection.execute("begin")
    ours.claim()
    assert theirs.answer()["reason"] == "busy"
    queue.connection.execute("commit")


def test_a_finished_run_claims_nothing(queue: Queue) -> None:
    """Its id is used up."""
    queue.enqueue(examples=2)
    run = queue.run()
    run.claim(1)
    run.finish()
    with refused("409", "run_finished"):
        run.claim()


def test_finish_beats_claim(queue: Queue, another: Callable[[], Queue]) -> None:
    """A claim that arrives while its run is being finished is refused, and gets no jobs."""
    queue.enqueue()
    run, watcher = queue.run(), another()
    queue.connection.execute("begin")
    run.finish()

    def late(other: Queue) -> None:
        same = other.run()
        same.id = run.id
        with refused("409", "run_finished"):
            same.claim()

    with blocked(another(), late, watcher) as claim:
        queue.connection.execute("commit")
        claim.result()


def test_a_claim_of_an_empty_queue_says_so(queue: Queue) -> None:
    """Only the first run leaves a row, which shows that one came."""
    answer = queue.run().answer()
    assert answer == {"jobs": [], "reason": "queue_empty", "nextAttemptInSeconds": None}
    queue.run().answer()
    assert queue.one('select count(*) as n from generation.runs where "finishedAt" is not null')["n"] == 1


def test_next_attempt_by_lease(queue: Queue, clock: Clock) -> None:
    """With everything being worked on, the next attempt is when the first lease would run out."""
    queue.claimed()
    clock.advance(5)
    assert queue.run().answer()["nextAttemptInSeconds"] == 250


def test_a_claim_that_gets_no_lock_in_time_answers_busy(queue: Queue, another: Callable[[], Queue]) -> None:
    """Being busy is an answer, and changes nothing."""
    queue.enqueue()
    run, other = queue.run(), another()
    lock = "select pg_advisory_xact_lock(generation.lock_class('run'), hashtext(%s))"
    other.connection.execute("begin")
    other.connection.execute(lock, [str(run.id)])
    assert run.answer() == {"jobs": [], "reason": "busy", "nextAttemptInSeconds": 1}
    other.connection.execute("rollback")
    assert queue.one("select attempts from photo_generation_queue")["attempts"] == 0


def test_a_repeated_job_names_only_its_missing_images(queue: Queue, clock: Clock) -> None:
    """A repeated job also says that it was claimed before."""
    job = queue.claimed(images=4)
    assert (job["missing"], job["claimedBefore"]) == ([0, 1, 2, 3], False)
    queue.record(job, 2)
    queue.refuse(job, 0)
    queue.settle(job, "retry", retryInSeconds=5)
    clock.advance(5)
    (again,) = queue.run().claim()
    assert (again["missing"], again["claimedBefore"], again["attempts"]) == ([1, 3], True, 2)
    assert again["fence"] != job["fence"]


def test_a_claim_returns_the_models_latency_successor_and_photo_sources(queue: Queue) -> None:
    """A run needs all three before it fetches a photo."""
    queue.enqueue(examples=3, images=10)
    first = queue.run().answer(1)
    assert (first["successor"], first["latencySeconds"]) == (None, None)
    assert sorted(first["photoBuckets"]) == ["generated-photos", "training-photos"]
    for index in range(10):
        queue.record(first["jobs"][0], index, generationMs=(index + 1) * 1000)
    assert queue.run().answer(1)["latencySeconds"] == 9.1
    queue.call("set_generation_model_successor", p_model="model", p_successor="newer")
    last = queue.run().answer(1)
    assert (last["successor"], last["latencySeconds"]) == ("newer", None)


def test_latency_is_recent(queue: Queue, clock: Clock) -> None:
    """A model's latency comes from its latest fifty images."""
    queue.enqueue(examples=7, images=10)
    jobs = queue.run().claim(6)
    for job in jobs:
        clock.advance(1)
        for index in range(10):
            queue.record(job, index, generationMs=60_000 if job is jobs[0] else 5_000)
    assert queue.run().answer(1)["latencySeconds"] == 5


def test_run_is_registered(queue: Queue, clock: Clock) -> None:
    """A run that got jobs is a row with its worker and the time it ends by; later claims do not move it."""
    queue.enqueue(examples=2)
    run = queue.run("w")
    run.answer(1, p_run_seconds=200)
    clock.advance(30)
    run.answer(1, p_run_seconds=170)
    row = queue.one("select * from generation.runs")
    assert (row["id"], row["workerId"], row["finishedAt"]) == (run.id, "w", None)
    assert row["endsBy"] - row["startedAt"] == timedelta(seconds=200)


def test_used_up_attempts_are_claimable(queue: Queue) -> None:
    """A ready job is always given, even with its attempts used up: only a person can have made it so."""
    job = queue.claimed(maxAttempts=1)
    queue.call("release_stale_generation_jobs", p_older_than_seconds=-1)
    (again,) = queue.run().claim()
    assert (again["id"], again["attempts"], again["maxAttempts"]) == (job["id"], 2, 1)
    assert queue.settle(again, "retry")["status"] == "failed"
    check_invariants(queue.connection)


def test_users_of_a_claim(queue: Queue) -> None:
    """A job names its user and its batch."""
    answer = queue.enqueue()
    (job,) = queue.run().claim()
    assert (job["userFolder"], job["batchId"], job["id"]) == (USER, answer["batchId"], answer["jobIds"][0])


def test_nothing_of_users_who_are_skipped(queue: Queue) -> None:
    """Other users' next jobs are claimed instead; if there are none, the run has to wait."""
    queue.enqueue("crowding")
    queue.enqueue("crowding")
    queue.enqueue("patient")
    run = queue.run()
    (crowding,) = run.claim(1)
    assert crowding["userId"] == "crowding"
    skipped = ["crowding", "nobody"]
    (job,) = run.answer(p_skip_users=skipped)["jobs"]
    assert job["userId"] == "patient"
    assert run.answer(p_skip_users=skipped)["reason"] == "isolated"
    (job,) = run.answer()["jobs"]
    assert job["userId"] == "crowding"


def test_a_claim_ends_with_the_job_that_brings_its_images_to_the_bound(queue: Queue) -> None:
    queue.enqueue(examples=5, images=4)
    run = queue.run()
    assert [len(run.answer(p_max_images=most)["jobs"]) for most in (1, 5)] == [1, 2]
    assert len(run.answer(p_max_images=None)["jobs"]) == 2


def test_a_claim_tells_how_many_images_bounded_it(queue: Queue) -> None:
    """The caller's bound, or what the gate can start soon: who got as many may ask for more at once."""
    queue.enqueue(examples=3)
    queue.call("set_generation_rate", p_model="m", p_rate=60, p_burst=1)
    answers = [queue.run().answer(p_model="m", p_max_images=most) for most in (1, None)]
    assert [answer["mostImages"] for answer in answers] == [1, 10]
