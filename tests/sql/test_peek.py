"""Peek: what a claim would give now, without taking it."""

from random import Random

import pytest

from tests.support.queue_sql import Clock, Queue, refused

LEASE = 255  # seconds; of a run of 240 s


def peek(queue: Queue, max_jobs: int = 100) -> list[int]:
    """The ids of the jobs a claim would give."""
    return [job["id"] for job in queue.call("peek_generation_jobs", p_max_jobs=max_jobs)["jobs"]]


def disorder(queue: Queue, clock: Clock, random: Random) -> None:
    """A queue with ready, waiting, due, stale, suspect and ended jobs of several users and priorities."""
    for user in ("a", "b", "c"):
        queue.enqueue(user, examples=6, images=random.randint(1, 3), priority=random.choice([0, 0, 5]))
    for _ in range(random.randint(1, 3)):
        for job in queue.run().claim(random.randint(1, 5)):
            outcome = random.choice(["retry", "rate_limited", "failed", "completed", "released", ""])
            if outcome:
                queue.settle(job, outcome, retryInSeconds=random.choice([0, 100, 1000]))
        clock.advance(random.choice([1, LEASE]))
    queue.enqueue("d", examples=2)


@pytest.mark.parametrize("seed", range(12))
def test_peek_is_the_next_claim(queue: Queue, clock: Clock, seed: int) -> None:
    """Peek names the jobs that a new run's claim then gives, in their order, and changes nothing."""
    random = Random(seed)
    disorder(queue, clock, random)
    for _ in range(5):
        max_jobs = random.randint(1, 6)
        seen = peek(queue, max_jobs)
        assert peek(queue, max_jobs) == seen
        assert seen == [job["id"] for job in queue.run().claim(max_jobs)]


def test_peek_on_an_idle_queue_says_why_and_when_to_look_again(queue: Queue, clock: Clock) -> None:
    """Peek on an idle queue says why and when to look again."""
    empty: dict[str, object] = {"jobs": [], "reason": "queue_empty", "nextAttemptInSeconds": None}
    assert queue.call("peek_generation_jobs") == empty
    queue.settle(queue.claimed(), "retry", retryInSeconds=9)
    assert queue.call("peek_generation_jobs") == empty | {"nextAttemptInSeconds": 9}
    with refused("400", "out_of_range", "p_max_jobs"):
        queue.call("peek_generation_jobs", p_max_jobs=0)


def test_peek_shows_what_an_operator_needs_of_each_job(queue: Queue) -> None:
    """In the order of the claims."""
    job = queue.claimed(images=3, priority=2)
    queue.record(job, 0)
    queue.settle(job, "released")
    (seen,) = queue.call("peek_generation_jobs")["jobs"]
    assert seen == {
        "id": job["id"],
        "batchId": job["batchId"],
        "status": "pending",
        "priority": 2,
        "attempts": 1,
        "images": 2,
    }
