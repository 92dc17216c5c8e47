"""How gate and caps affect a claim: when it gives nothing and why, and how many jobs it gives."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.gate_sql import Moment, allow, caps, limited, refusal, still_time_as_installed, take
from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Queue, blocked


@pytest.fixture
def moment(queue: Queue) -> Iterator[Moment]:
    """A time that a test moves, noon at first; three runs at once, as installed."""
    with still_time_as_installed(queue) as moment:
        yield moment


def test_a_claim_with_more_than_30_seconds_to_wait_gives_nothing(queue: Queue, moment: Moment) -> None:
    """The answer says when jobs can be claimed; with a shorter wait, the claim gives jobs."""
    queue.enqueue()
    limited(queue, "minute", limit=30, retryAfterSeconds=31)
    assert refusal(queue.run().answer()) == ("rate_limited", 31)
    moment.advance(1)
    assert refusal(queue.run().answer(p_run_seconds=20)) == ("rate_limited", 30)
    assert len(queue.run().claim()) == 1


def test_a_run_above_the_limit_waits_until_one_ends(queue: Queue, moment: Moment) -> None:
    """A run above the limit also gets jobs once the deadline of another run has passed."""
    queue.enqueue(examples=20)
    runs = [queue.run() for _ in range(3)]
    for run in runs:
        assert len(run.claim(1)) == 1
        moment.advance(10)
    assert refusal(queue.run().answer(1)) == ("too_many_runs", 60)
    assert len(runs[0].claim(1)) == 1
    runs[1].finish()
    last = queue.run()
    assert len(last.claim(1)) == 1
    assert queue.run().answer(1)["reason"] == "too_many_runs"
    for _ in range(3):
        moment.advance(69)
        for run in (runs[0], runs[2], last):
            run.answer(1)
    assert refusal(queue.run().answer(1)) == ("too_many_runs", 3)
    moment.advance(3)
    assert queue.call("generation_gate")["runs"] == 2
    assert len(queue.run().claim(1)) == 1


def test_dead_runs_hold_nobody_up(queue: Queue, moment: Moment) -> None:
    """Runs not heard of for 90 s do not count as active; a run that calls the gate does."""
    queue.enqueue(examples=20)
    runs = [queue.run() for _ in range(3)]
    for run in runs:
        assert len(run.claim(1)) == 1
    moment.advance(60)
    take(queue, runs[0].id, 1)
    assert refusal(queue.run().answer(1)) == ("too_many_runs", 30)
    moment.advance(30)
    assert queue.call("generation_gate")["runs"] == 1
    assert [len(queue.run().claim(1)) for _ in range(2)] == [1, 1]
    assert queue.run().answer(1)["reason"] == "too_many_runs"


@pytest.mark.parametrize("told", ["record", "refuse", "settle"])
def test_a_run_that_tells_of_its_jobs_is_alive(queue: Queue, moment: Moment, told: str) -> None:
    """A record or a settle counts as much as a question at the gate."""
    queue.enqueue(examples=2, images=2)
    run = queue.run()
    first, _ = run.claim(2)
    moment.advance(89)
    if told == "record":
        queue.record(first, 0)
    elif told == "refuse":
        queue.refuse(first, 0)
    else:
        queue.settle(first, "released")
    moment.advance(2)
    assert queue.call("generation_gate")["runs"] == 1


def test_race_for_the_last_place(queue: Queue, another: Callable[[], Queue], moment: Moment) -> None:
    """Of two runs that start at once for the last place, one gets it and the other is told so."""
    queue.enqueue(examples=2)
    caps(queue, maxRuns=1)
    watcher = another()
    queue.connection.execute("begin")
    assert len(queue.run().claim(1)) == 1
    with blocked(another(), lambda other: other.run().answer(1), watcher) as theirs:
        queue.connection.execute("commit")
        assert refusal(theirs.result()) == ("too_many_runs", 90)


@pytest.mark.parametrize(
    ("rate", "burst", "seconds", "images", "jobs"),
    [
        (60, 1, 240, 1, 10),  # at 0, 1.02, … 9.2 s: a horizon
        (60, 1, 5, 1, 5),
        (60, 1, 240, 4, 3),  # the third has two that can start
        (60, 1, 1, 1, 1),
        (1, 1, 240, 1, 1),
        (2, 10, 1, 1, 2),  # a burst that the rate cannot bear counts as the rate
        (60, 10, 1, 1, 10),
        (1, 1, 20, 10, 1),  # one at least
    ],
)
def test_claim_fits_the_gate(
    queue: Queue, moment: Moment, rate: int, burst: int, seconds: int, images: int, jobs: int
) -> None:
    """A claim gives no more jobs than the gate can start within the run and a horizon, but one at least."""
    allow(queue, rate, burst)
    queue.enqueue(examples=50, images=images)
    assert len(queue.run().answer(p_run_seconds=seconds)["jobs"]) == jobs


def test_claim_fits_the_block_and_the_cap(queue: Queue, moment: Moment) -> None:
    """The time until the gate opens counts, and so does what the day's cap leaves."""
    queue.enqueue(examples=90)
    limited(queue, "minute", limit=61, retryAfterSeconds=0)
    queue.connection.execute(
        """update generation.gates set "blockedUntil" = generation.moment() + interval '5 s'"""
    )
    assert len(queue.run().answer(p_run_seconds=40)["jobs"]) == 5
    caps(queue, imagesPerDay=3)
    assert len(queue.run().answer(p_run_seconds=40)["jobs"]) == 3


def test_a_job_at_its_maximum_age_fails_at_a_used_up_quota(queue: Queue, moment: Moment) -> None:
    """The job has a readable error message, and its batch ends."""
    caps(queue, maxAgeHours=2)
    job = queue.claimed(images=2)
    queue.record(job, 0)
    moment.advance(7199)
    assert queue.settle(job, "rate_limited", retryInSeconds=30)["status"] == "rate_limited"
    moment.advance(30)
    (again,) = queue.run().claim()
    queue.connection.execute(
        """update photo_generation_queue set "createdAt" = "createdAt" - interval '1 h'"""
    )
    assert queue.settle(again, "rate_limited", message="quota used up")["status"] == "failed"
    row = queue.job(job["id"])
    assert (row["errorCode"], row["completedAt"], row["retryAt"]) == ("too_old", moment.now, None)
    assert row["errorMessage"] == "Gave up after 2 hours. The last reason: quota used up"
    assert (queue.batch(job["batchId"])["status"], queue.counters(job["batchId"])) == (
        "partial",
        (0, 1, 1, 1),
    )
    check_invariants(queue.connection)


@pytest.mark.parametrize(
    ("outcome", "spent", "status"),
    [("retry", False, "failed"), ("retry", True, "pending"), ("released", False, "pending")],
)
def test_a_job_at_its_maximum_age_fails_at_a_retry_that_spends_no_attempt(
    queue: Queue, moment: Moment, outcome: str, spent: bool, status: str
) -> None:
    """Otherwise it could be retried for ever. A job that a run gave back unstarted has not failed."""
    caps(queue, maxAgeHours=2)
    job = queue.claimed(images=2)
    moment.advance(7199)
    result = {"code": "photos_not_ready", "message": "not ready", "attemptSpent": spent}
    assert queue.settle(job, outcome, **result)["status"] == "pending"
    moment.advance(2)
    (again,) = queue.run().claim()
    assert queue.settle(again, outcome, **result)["status"] == status
    if status == "failed":
        row = queue.job(job["id"])
        assert (row["errorCode"], row["errorMessage"]) == (
            "too_old",
            "Gave up after 2 hours. The last reason: not ready",
        )
    check_invariants(queue.connection)


def test_due_retry_among_users(queue: Queue, moment: Moment) -> None:
    """A due retry takes its user's next turn: before later orders, but not before another user's turn."""
    queue.enqueue("first", examples=2)
    retried = queue.run().claim(1)[0]
    queue.enqueue("other")
    queue.settle(retried, "rate_limited", retryInSeconds=10)
    later = queue.enqueue("first", examples=2)["batchId"]
    moment.advance(10)
    run = queue.run()
    served = [job for _ in range(5) for job in run.claim(1)]
    places = [job["id"] for job in served]
    other = next(job["id"] for job in served if job["userId"] == "other")
    assert places.index(retried["id"]) < min(
        places.index(job["id"]) for job in served if job["batchId"] == later
    )
    assert places.index(other) <= 2
