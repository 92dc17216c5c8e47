"""Settle: a result counts once, only under its claim's fence, and counters follow in the same step."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import NOON, Clock, Queue, blocked, refused, result_of

OUTCOMES = ("completed", "failed", "retry", "rate_limited", "released")
RETRY_SECONDS = 30
# images made and given up, of three
IMAGES = [(0, 0), (1, 0), (0, 1), (1, 1), (3, 0), (0, 3), (2, 1)]


def expected_status(outcome: str, attempts_left: bool, spent: bool, made: int, given_up: int) -> str:
    """The expected status of a job of three images."""
    if made + given_up == 3:
        return "completed" if made else "failed"
    if outcome in ("failed", "rate_limited"):
        return outcome
    return "failed" if spent and not attempts_left else "pending"


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("images", IMAGES)
def test_a_jobs_status_follows_from_its_images_outcome_and_attempts(
    queue: Queue, clock: Clock, outcome: str, images: tuple[int, int]
) -> None:
    """The counters agree."""
    made, given_up = images
    for attempts_left, spent in product((True, False), (True, False)):
        job = queue.claimed(images=3, maxAttempts=2 if attempts_left else 1)
        for index in range(made):
            queue.record(job, index)
        for index in range(made, made + given_up):
            queue.refuse(job, index)
        result = queue.settle(job, outcome, attemptSpent=spent, retryInSeconds=RETRY_SECONDS)
        status = expected_status(outcome, attempts_left, spent, made, given_up)
        row = queue.job(job["id"])
        assert (result["result"], result["status"], row["status"]) == ("settled", status, status)
        assert row["attempts"] == (1 if spent else 0)
        assert (row["lockedBy"], row["lockedAt"], row["leaseExpiresAt"]) == (None, None, None)
        assert (row["completedAt"] is None) == (status in ("pending", "rate_limited"))
        later = status == "rate_limited" or (status == "pending" and outcome != "released")
        assert row["retryAt"] == (clock.now + timedelta(seconds=RETRY_SECONDS) if later else None)
        assert row["errorMessage"] or (status, given_up) == ("completed", 0)
        check_invariants(queue.connection)
        queue.call("cancel_generation_batch", p_batch_id=job["batchId"])


def test_a_job_says_in_words_why_it_failed_or_what_is_missing(queue: Queue) -> None:
    """A person reads it."""
    some, none, worn = (queue.claimed(images=2, maxAttempts=1) for _ in range(3))
    queue.record(some, 0)
    for job, index in ((some, 1), (none, 0), (none, 1)):
        queue.refuse(job, index)
    queue.settle_all([result_of(job, "retry", message="It was busy.") for job in (some, none, worn)])
    rows = [queue.job(job["id"]) for job in (some, none, worn)]
    assert [(row["errorCode"], row["errorMessage"]) for row in rows] == [
        ("some_images_refused", "1 of 2 photos could not be made: Not made: safety."),
        ("safety", "Not made: safety."),
        ("retry", "Gave up after 1 attempts. The last one: It was busy."),
    ]


def test_a_job_settled_as_completed_without_all_its_images_is_retried(queue: Queue) -> None:
    """The rows decide, not what the worker says."""
    job = queue.claimed(images=2)
    queue.record(job, 1)
    assert queue.settle(job, "completed", code=None)["status"] == "pending"
    assert queue.job(job["id"])["errorCode"] == "incomplete"
    assert queue.run().claim()[0]["missing"] == [0]


@pytest.mark.parametrize(("made", "status"), [(4, "completed"), (3, "partial"), (0, "failed")])
def test_a_batch_ends_with_its_last_job(queue: Queue, clock: Clock, made: int, status: str) -> None:
    """The batch ends as completed, partial (an image is missing) or failed."""
    batch_id = queue.enqueue(examples=4)["batchId"]
    jobs = queue.run().claim()
    for number, job in enumerate(jobs):
        assert (queue.batch(batch_id)["status"], queue.batch(batch_id)["completedAt"]) == ("generating", None)
        clock.advance(1)
        if number < made:
            queue.complete(job)
        else:
            queue.settle(job, "failed")
    assert (queue.batch(batch_id)["status"], queue.batch(batch_id)["completedAt"]) == (status, clock.now)
    check_invariants(queue.connection)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_result_without_the_claims_fence_changes_nothing(queue: Queue, outcome: str) -> None:
    """The fence of another job of the same worker is refused too."""
    job = queue.claimed()
    before = queue.job(job["id"]), queue.batch(job["batchId"])
    for fence in ("", "worker", job["fence"][:-1], job["fence"] + "0", None):
        result = queue.settle(job, outcome, fence=fence)
        assert (result["result"], result["status"]) == ("lease_lost", None)
    assert (queue.job(job["id"]), queue.batch(job["batchId"])) == before


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_repeated_settle_changes_nothing(queue: Queue, outcome: str) -> None:
    """The repeated settle gets `lease_lost`, even if the job was claimed again."""
    job = queue.claimed(images=2)
    queue.settle(job, outcome)
    for _ in range(2):
        before = queue.job(job["id"]), queue.batch(job["batchId"])
        assert queue.settle(job, outcome)["result"] == "lease_lost"
        assert (queue.job(job["id"]), queue.batch(job["batchId"])) == before
        queue.run().claim()
    check_invariants(queue.connection)


def test_several_batches_at_once(queue: Queue) -> None:
    """Jobs of several batches can be settled in one call, independently."""
    batches = [queue.enqueue(f"user-{i}", examples=3)["batchId"] for i in range(3)]
    jobs = queue.run().claim()
    for job in jobs[::2]:
        queue.record(job, 0)
    results = [result_of(job, "completed" if i % 2 == 0 else "failed") for i, job in enumerate(jobs)]
    results[0]["fence"] = "lost"
    answered = {entry["jobId"]: (entry["result"], entry["status"]) for entry in queue.settle_all(results)}
    wanted = {job["id"]: ("settled", "failed" if i % 2 else "completed") for i, job in enumerate(jobs)}
    assert answered == wanted | {jobs[0]["id"]: ("lease_lost", None)}
    assert sum(queue.counters(batch)[0] + queue.counters(batch)[1] for batch in batches) == 8
    check_invariants(queue.connection)


def test_stale_and_fresh_together(queue: Queue) -> None:
    """A repeated old result and a new one of the same job are each judged by their own fence."""
    old = queue.claimed()
    queue.settle(old, "released")
    (new,) = queue.run().claim()
    queue.record(new, 0)
    answer = queue.settle_all([result_of(old, "released"), result_of(new, "completed")])
    assert [(entry["result"], entry["status"]) for entry in answer] == [
        ("lease_lost", None),
        ("settled", "completed"),
    ]
    check_invariants(queue.connection)


@pytest.mark.parametrize(
    "results", [None, {}, "x", [3], [{}], [{"outcome": "done"}], [{"outcome": "failed"}]]
)
def test_one_malformed_result_refuses_the_whole_call(queue: Queue, results: object) -> None:
    """Nothing is settled."""
    job = queue.claimed()
    queue.record(job, 0)
    is_list = isinstance(results, list)
    sent = [result_of(job, "completed"), *results] if isinstance(results, list) else results
    with refused("400", "bad_result" if is_list else "wrong_type"):
        queue.call("settle_generation_jobs", p_results=f'"{sent}"' if isinstance(sent, str) else sent)
    assert queue.job(job["id"])["status"] == "processing"


@pytest.mark.parametrize(
    ("now", "reset"),
    [
        ("2026-05-04 12:00", "2026-05-05 07:00"),
        ("2026-05-05 06:59", "2026-05-05 07:00"),
        ("2026-05-05 07:00", "2026-05-06 07:00"),
        ("2026-03-08 07:59", "2026-03-08 08:00"),  # the day before clocks go forward ends
        ("2026-03-08 08:00", "2026-03-09 07:00"),  # that day has 23 hours
        ("2026-11-01 06:59", "2026-11-01 07:00"),
        ("2026-11-01 07:00", "2026-11-02 08:00"),  # clocks go back: 25 hours
        ("2026-12-31 09:00", "2027-01-01 08:00"),
    ],
)
def test_a_job_without_daily_quota_waits_for_midnight_in_california(
    queue: Queue, clock: Clock, now: str, reset: str
) -> None:
    """In summer, in winter, and when the clocks change."""
    clock.set(datetime.fromisoformat(now).replace(tzinfo=UTC))
    job = queue.claimed()
    queue.settle(job, "rate_limited", untilDailyReset=True, retryInSeconds=5, attemptSpent=False)
    row = queue.job(job["id"])
    assert row["retryAt"] == datetime.fromisoformat(reset).replace(tzinfo=UTC) + timedelta(seconds=5)
    assert (row["status"], row["attempts"]) == ("rate_limited", 0)


def test_settle_waits_for_cancel(queue: Queue, another: Callable[[], Queue]) -> None:
    """A result that arrives while its batch is being cancelled has lost its lease."""
    job = queue.claimed()
    queue.record(job, 0)
    watcher = another()
    queue.connection.execute("begin")
    queue.call("cancel_generation_batch", p_batch_id=job["batchId"])
    with blocked(another(), lambda other: other.settle(job, "completed"), watcher) as late:
        queue.connection.execute("commit")
        assert late.result()["result"] == "lease_lost"
    check_invariants(queue.connection)


def test_last_two_jobs_at_once(queue: Queue, another: Callable[[], Queue]) -> None:
    """Two workers who settle a batch's last two jobs at once close it together."""
    batch_id = queue.enqueue(examples=2)["batchId"]
    first, second = queue.run().claim()
    for job in (first, second):
        queue.record(job, 0)
    watcher = another()
    queue.connection.execute("begin")
    queue.settle(first, "completed")
    with blocked(another(), lambda other: other.settle(second, "completed"), watcher) as late:
        queue.connection.execute("commit")
        assert late.result()["status"] == "completed"
    assert queue.batch(batch_id)["status"] == "completed"
    check_invariants(queue.connection)


STEP = st.tuples(
    st.sampled_from(OUTCOMES),
    st.booleans(),  # attempt spent
    st.booleans(),  # the right fence
    st.integers(0, 3),  # images made
    st.integers(0, 3),  # images given up
    st.sampled_from([0, 1, 500]),  # retry in seconds
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.lists(STEP, min_size=1, max_size=8), min_size=1, max_size=4))
def test_counters_equal_the_rows_after_any_results(
    queue: Queue, clock: Clock, rounds: list[list[tuple[Any, ...]]]
) -> None:
    """In any order; the statuses fit the images."""
    clock.set(NOON)
    for examples in (1, 2, 5):
        queue.enqueue(f"user-{examples}", examples=examples, images=3, maxAttempts=2)
    for steps in rounds:
        results = []
        for job, (outcome, spent, ours, made, given_up, seconds) in zip(
            queue.run().claim(8), steps, strict=False
        ):
            for index in range(made):
                queue.record(job, index)
            for index in range(3 - given_up, 3):
                queue.refuse(job, index)
            fence = job["fence"] if ours else "lost"
            results.append(result_of(job, outcome, attemptSpent=spent, fence=fence, retryInSeconds=seconds))
        queue.settle_all(results)
        clock.advance(255)
        check_invariants(queue.connection)
