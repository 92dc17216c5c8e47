"""Rescue: a dead worker's jobs come back, and a job that kills workers is isolated and fails."""

from collections.abc import Callable

from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Clock, Queue, blocked

LEASE = 255  # seconds; of a run of 240 s


def crash(queue: Queue, clock: Clock, max_jobs: int = 100) -> list[int]:
    """A run claims, and its worker dies; returns the ids of its jobs."""
    ids = [job["id"] for job in queue.run().claim(max_jobs)]
    clock.advance(LEASE)
    return ids


def test_an_expired_lease_of_a_single_job_counts_as_its_crash(queue: Queue, clock: Clock) -> None:
    """The attempt is given back, and the job is given out again."""
    job = queue.claimed()
    clock.advance(LEASE - 0.001)
    assert queue.run().claim() == []
    clock.advance(0.001)
    (again,) = queue.run().claim()
    assert (again["id"], again["attempts"], again["crashes"]) == (job["id"], 1, 1)
    assert queue.settle(job, "completed")["result"] == "lease_lost"
    check_invariants(queue.connection)


def test_a_jobs_third_crash_alone_fails_it(queue: Queue, clock: Clock) -> None:
    """The job has its own error code, and its batch is updated."""
    job = queue.claimed(images=3)
    queue.record(job, 0)
    queue.refuse(job, 1)
    clock.advance(LEASE)
    assert [crash(queue, clock) for _ in range(2)] == [[job["id"]]] * 2
    assert queue.run().claim() == []
    row = queue.job(job["id"])
    assert (row["status"], row["errorCode"], row["crashes"]) == ("failed", "crashed", 3)
    assert "three times" in row["errorMessage"]
    assert queue.batch(job["batchId"])["status"] == "partial"
    assert queue.counters(job["batchId"]) == (0, 1, 1, 2)
    check_invariants(queue.connection)


def test_third_crash_with_every_image(queue: Queue, clock: Clock) -> None:
    """A job whose images are all made does not fail for crashes: the next claim has only to settle it."""
    job = queue.claimed()
    clock.advance(LEASE)
    crash(queue, clock)
    (job,) = queue.run().claim()
    queue.record(job, 0)
    clock.advance(LEASE)
    (job,) = queue.run().claim()
    assert (job["missing"], job["crashes"]) == ([], 3)
    queue.complete(job)
    assert queue.batch(job["batchId"])["status"] == "completed"
    check_invariants(queue.connection)


def test_crash_of_used_up_attempts(queue: Queue, clock: Clock) -> None:
    """A job released by hand beyond its attempts fails when its worker dies as well."""
    job = queue.claimed(maxAttempts=1)
    queue.call("release_stale_generation_jobs", p_older_than_seconds=-1)
    crash(queue, clock)
    queue.run().claim()
    row = queue.job(job["id"])
    assert (row["status"], row["errorCode"]) == ("failed", "attempts_exhausted")
    check_invariants(queue.connection)


def test_suspect_goes_alone(queue: Queue, clock: Clock) -> None:
    """A suspect of a crash is given out alone, and nothing beside it until it is settled."""
    queue.claimed()
    clock.advance(LEASE)
    queue.enqueue(examples=3)
    run = queue.run()
    (suspect,) = run.claim(10)
    assert suspect["crashes"] == 1
    answer = run.answer(10)
    assert (answer["jobs"], answer["reason"], answer["nextAttemptInSeconds"]) == ([], "isolated", 0)
    queue.complete(suspect)
    assert len(run.claim(10)) == 3


def test_suspect_waits_for_an_empty_run(queue: Queue, clock: Clock) -> None:
    """A run that holds jobs gets no suspect; another run does."""
    queue.enqueue(examples=2)
    crash(queue, clock, max_jobs=1)
    queue.call("release_stale_generation_jobs", p_older_than_seconds=100)
    queue.connection.execute("update photo_generation_queue set suspect = true where attempts > 0")
    queue.connection.execute('update photo_generation_queue set "startTag" = 0 where attempts = 0')
    run = queue.run()
    (held,) = run.claim(2)
    assert not queue.job(held["id"])["suspect"]
    assert run.answer()["reason"] == "isolated"
    assert [queue.job(job["id"])["suspect"] for job in queue.run().claim()] == [True]


def test_a_crash_among_several_jobs_makes_all_suspects(queue: Queue, clock: Clock) -> None:
    """A crash among several jobs counts for none of them, even for one with two crashes."""
    queue.enqueue(examples=2)
    queue.connection.execute("update photo_generation_queue set crashes = 2")
    ids = crash(queue, clock)
    queue.run().claim()
    rows = [queue.job(i) for i in ids]
    assert [(row["crashes"], row["suspect"], row["attempts"]) for row in rows] == [(2, True, 1), (2, True, 0)]
    assert [row["status"] for row in rows] == ["processing", "pending"]


def test_jobs_of_one_run_rescued_separately_were_still_together(queue: Queue, clock: Clock) -> None:
    """Their leases may end at different times."""
    queue.enqueue(examples=3)
    run = queue.run()
    (first,) = run.claim(1)
    clock.advance(1)
    (second,) = run.claim(1)
    clock.advance(LEASE - 1)
    queue.run().claim(1)
    assert queue.job(second["id"])["status"] == "processing"
    clock.advance(1)
    queue.run().claim(1)
    rows = [queue.job(job["id"]) for job in (first, second)]
    assert [(row["crashes"], row["suspect"]) for row in rows] == [(0, True), (0, True)]


def test_acquitted_by_a_try(queue: Queue, clock: Clock) -> None:
    """A suspect that was tried and settled goes with the others again; one that never began stays alone."""
    job = queue.claimed()
    clock.advance(LEASE)
    (again,) = queue.run().claim()
    queue.settle(again, "released", attemptSpent=False)
    assert queue.job(job["id"])["suspect"]
    (again,) = queue.run().claim()
    queue.settle(again, "retry", code="unavailable", message="The model did not answer.")
    row = queue.job(job["id"])
    assert (row["suspect"], row["crashes"]) == (False, 1)


def test_a_claim_rescues_a_bounded_number_of_leases(queue: Queue, clock: Clock) -> None:
    """The next claims rescue the rest."""
    for _ in range(2):
        queue.enqueue(examples=75)
    assert len(crash(queue, clock, max_jobs=200)) == 150
    expired = """select count(*) as n from photo_generation_queue
        where status = 'processing' and "leaseExpiresAt" <= generation.clock()"""
    queue.run().claim()
    assert queue.one(expired)["n"] == 50
    queue.run().claim()
    assert queue.one(expired)["n"] == 0


def test_rescue_skips_locked(queue: Queue, another: Callable[[], Queue], clock: Clock) -> None:
    """A job that is being settled while its lease expires is left to its worker."""
    job = queue.claimed()
    clock.advance(LEASE)
    other = another()
    queue.connection.execute("begin")
    queue.record(job, 0)
    assert other.run().answer()["jobs"] == []
    queue.settle(job, "completed")
    queue.connection.execute("commit")
    assert queue.job(job["id"])["crashes"] == 0
    check_invariants(queue.connection)


def test_settle_waits_for_rescue(queue: Queue, another: Callable[[], Queue], clock: Clock) -> None:
    """A settle that comes while its job is being rescued has lost its lease."""
    job = queue.claimed()
    clock.advance(LEASE)
    watcher = another()
    queue.connection.execute("begin")
    (again,) = queue.run().claim()
    with blocked(another(), lambda other: other.settle(job, "completed"), watcher) as late:
        queue.connection.execute("commit")
        assert late.result()["result"] == "lease_lost"
    assert queue.job(job["id"])["lockedBy"] == again["fence"]
