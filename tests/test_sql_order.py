"""Order: who is served when, by priority, fair shares and due times."""

from itertools import pairwise

import pytest

from tests.queue_sql import Clock, Queue

pytest_plugins = ("tests.queue_fixtures",)


def serve(queue: Queue, jobs: int) -> list[str]:
    """The users whose jobs are handed out, one job a claim."""
    run = queue.run()
    return [job["userFolder"] for _ in range(jobs) for job in run.claim(1)]


def test_priority_before_age(queue: Queue) -> None:
    """Jobs are served by priority, then in the order of their tags."""
    for priority in (0, -5, 7, 0):
        queue.enqueue(priority=priority, basePrompt=str(priority))
    assert [job["basePrompt"] for job in queue.run().claim()] == ["7", "0", "0", "-5"]


def test_fair_between_users(queue: Queue) -> None:
    """A thousand jobs of one user do not delay the first job of another."""
    for _ in range(10):
        queue.enqueue("crowd", examples=100)
    queue.enqueue("single")
    assert "single" in serve(queue, 3)


def test_fair_by_images(queue: Queue) -> None:
    """Users take turns by images, not by jobs: four single images go with one job of four."""
    queue.enqueue("large", examples=4, images=4)
    queue.enqueue("small", examples=16, images=1)
    served = [place for place, user in enumerate(serve(queue, 20)) if user == "large"]
    assert [later - earlier - 1 for earlier, later in pairwise(served[1:])] == [4, 4]


def test_late_comers_join_now(queue: Queue) -> None:
    """A user who comes while another has been served for long gets turns from now on, not those missed."""
    queue.enqueue("old", examples=40)
    assert len(serve(queue, 20)) == 20
    queue.enqueue("new", examples=40)
    assert abs(serve(queue, 20).count("new") - 10) <= 1


def test_busy_past_is_forgiven(queue: Queue) -> None:
    """Who was served alone while nobody else wanted anything is not held to it afterwards."""
    queue.enqueue("early", examples=40)
    assert len(serve(queue, 40)) == 40
    queue.enqueue("fresh", examples=10)
    queue.enqueue("early", examples=10)
    assert abs(serve(queue, 10).count("early") - 5) <= 1


@pytest.mark.parametrize("outcome", ["retry", "rate_limited"])
def test_due_jobs(queue: Queue, clock: Clock, outcome: str) -> None:
    """A job put off is given again when it is due, not before, and the answer says when that is."""
    job = queue.claimed()
    queue.settle(job, outcome, retryInSeconds=90)
    clock.advance(60)
    answer = queue.run().answer()
    assert (answer["jobs"], answer["reason"], answer["nextAttemptInSeconds"]) == ([], "queue_empty", 30)
    clock.advance(30)
    (again,) = queue.run().claim()
    assert (again["id"], queue.job(job["id"])["retryAt"]) == (job["id"], None)


def test_due_jobs_keep_their_place(queue: Queue, clock: Clock) -> None:
    """A due retry goes before newer work of its user, but does not overtake what others waited for."""
    queue.enqueue("first", examples=2)
    job = queue.run().claim(1)[0]
    queue.settle(job, "retry", retryInSeconds=10)
    queue.enqueue("other", examples=3)
    clock.advance(10)
    assert serve(queue, 5).index("first") <= 1
    assert queue.job(job["id"])["status"] == "processing"


def test_absence_earns_nothing(queue: Queue) -> None:
    """A user who comes back gets turns from now on; the turns not taken meanwhile are gone."""
    queue.enqueue("back")
    assert serve(queue, 1) == ["back"]
    queue.enqueue("there", examples=40)
    assert len(serve(queue, 20)) == 20
    queue.enqueue("back", examples=40)
    assert abs(serve(queue, 20).count("back") - 10) <= 1
