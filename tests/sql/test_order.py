"""Order: who is served when, by priority, fair shares and due times."""

from collections.abc import Callable
from itertools import count, pairwise

import pytest

from tests.support.queue_sql import Clock, Queue


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
    """A user who was served alone is not held back for it later."""
    queue.enqueue("early", examples=40)
    assert len(serve(queue, 40)) == 40
    queue.enqueue("fresh", examples=10)
    queue.enqueue("early", examples=10)
    assert abs(serve(queue, 10).count("early") - 5) <= 1


@pytest.mark.parametrize("outcome", ["retry", "rate_limited"])
def test_a_postponed_job_is_given_out_when_it_is_due(queue: Queue, clock: Clock, outcome: str) -> None:
    """The job is not given out earlier, and the answer says when it is due."""
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


def turns_until_done(queue: Queue, clock: Clock, other: str, of_others: int, wait: int = 5) -> int:
    """Makes one job a second until 40 jobs of a customer are done; returns how many turns `other` had.

    Their jobs fail each time and are to be retried after `wait` seconds, or succeed if it is 0.
    """
    queue.enqueue(other, examples=of_others, maxAttempts=20)
    for _ in range(of_others if wait else 0):
        (job,) = queue.run().claim(1)
        queue.settle(job, "retry", retryInSeconds=wait)
    clock.advance(wait)
    queue.enqueue("customer", examples=40)
    done = turns = 0
    while done < 40:
        for job in queue.run().claim(1):
            if job["userFolder"] == "customer":
                queue.complete(job)
                done += 1
            elif wait:
                queue.settle(job, "retry", retryInSeconds=wait)
                turns += 1
            else:
                queue.complete(job)
                turns += 1
        clock.advance(1)
    return turns


@pytest.mark.parametrize("wait", [0, 5, 60])
def test_failing_jobs_delay_nobody_more_than_healthy_ones(queue: Queue, clock: Clock, wait: int) -> None:
    """A hundred jobs that fail whenever they are tried take turns with a customer's, not all the turns."""
    assert turns_until_done(queue, clock, "failing", 100, wait) <= 41


def test_failing_and_fresh_jobs_take_two_turns_at_most(queue: Queue, clock: Clock) -> None:
    """A user who orders while their jobs fail gets at most two turns for each turn of another user."""
    queue.enqueue("failing", examples=100, maxAttempts=20)
    queue.enqueue("customer", examples=40)
    done = turns = 0
    for number in count():
        if number % 50 == 0:
            queue.enqueue("failing", examples=100, maxAttempts=20)
        for job in queue.run().claim(1):
            if job["userFolder"] == "customer":
                queue.complete(job)
                done += 1
            else:
                queue.settle(job, "retry", retryInSeconds=3)
                turns += 1
        clock.advance(1)
        if done == 40:
            break
    assert turns <= 82


def test_retries_cost_the_users_share(queue: Queue, clock: Clock) -> None:
    """A user's retries delay that user's later orders, as orders would."""
    queue.enqueue("retrying", examples=20)
    for job in queue.run().claim(20):
        queue.settle(job, "retry", retryInSeconds=5)
    clock.advance(5)
    queue.enqueue("other", examples=40)
    assert abs(serve(queue, 20).count("other") - 10) <= 1
    queue.enqueue("retrying", examples=20)
    assert abs(serve(queue, 20).count("other") - 10) <= 1


def keep_busy(queue: Queue) -> None:
    """Ten other users order and are served, so that the order moves on."""
    for number in range(10):
        queue.enqueue(f"busy-{number}", examples=10)
        for job in queue.run().claim(20):
            queue.complete(job)


@pytest.mark.parametrize("apart", [0, 1], ids=["at-once", "one-by-one"])
def test_jobs_back_from_a_quota_take_turns_with_newer_orders(queue: Queue, clock: Clock, apart: int) -> None:
    """Sixty jobs that were overtaken while they waited take turns with a customer's, not all the turns."""
    queue.enqueue("waiting", examples=60)
    for number, job in enumerate(queue.run().claim(60)):
        queue.settle(job, "rate_limited", retryInSeconds=60 + apart * number, attemptSpent=False)
    keep_busy(queue)
    queue.enqueue("customer", examples=20)
    clock.advance(60)
    served: list[str] = []
    while served.count("customer") < 20:
        for job in queue.run().claim(1):
            served.append(job["userFolder"])
            queue.complete(job)
        clock.advance(1)
    assert len(served) <= 41


def test_orders_come_after_their_users_jobs_that_waited(queue: Queue, clock: Clock) -> None:
    """A user's returned jobs form one line, and new orders stand behind it."""
    queue.enqueue("waiting", examples=40)
    for job in queue.run().claim(40):
        queue.settle(job, "rate_limited", retryInSeconds=60, attemptSpent=False)
    keep_busy(queue)
    queue.enqueue("customer", examples=40)
    clock.advance(60)
    assert len(serve(queue, 2)) == 2
    queue.enqueue("waiting", examples=40)
    assert abs(serve(queue, 60).count("customer") - 30) <= 1


def test_waiting_for_a_quota_costs_no_share(queue: Queue, clock: Clock) -> None:
    """A user whose jobs waited, and were not overtaken, has as many turns as others afterwards."""
    queue.enqueue("waiting", examples=20)
    queue.enqueue("other", examples=40)
    for job in queue.run().claim(40):
        queue.settle(job, "rate_limited", retryInSeconds=60, attemptSpent=False)
    clock.advance(60)
    queue.enqueue("waiting", examples=20)
    assert abs(serve(queue, 60).count("waiting") - 30) <= 1


def test_a_user_who_is_passed_over_lets_nobody_join_in_the_past(queue: Queue) -> None:
    """While one user's jobs are not handed out, a newcomer takes turns with those that are."""
    queue.enqueue("passed-over", examples=50)
    run = queue.run()
    run.claim(1)
    queue.enqueue("first", examples=100)
    assert len(run.answer(90, p_skip_users=["passed-over"])["jobs"]) == 90
    queue.enqueue("newcomer", examples=80)
    jobs = run.answer(10, p_skip_users=["passed-over"])["jobs"]
    assert abs([job["userId"] for job in jobs].count("first") - 5) <= 1


def test_a_job_from_far_ahead_puts_no_newcomer_behind_those_passed_over(queue: Queue) -> None:
    """A user who orders much, cancels it and orders again stands far ahead, without affecting others."""
    queue.enqueue("passed-over", examples=50)
    cancelled = queue.enqueue("far", examples=100)
    queue.call("cancel_generation_batch", p_batch_id=cancelled["batchId"])
    queue.enqueue("far")
    (job,) = queue.run().answer(10, p_skip_users=["passed-over"])["jobs"]
    assert job["userId"] == "far"
    queue.enqueue("newcomer", examples=20)
    assert abs(serve(queue, 20).count("newcomer") - 10) <= 1


def test_later_newcomers_never_stand_before_earlier_ones(queue: Queue) -> None:
    """Whatever is handed out past the jobs of a user, and whether those are handed out again."""
    queue.enqueue("passed-over", examples=50)
    queue.enqueue("served", examples=30)
    for number in range(3):
        queue.enqueue(f"newcomer-{number}", examples=2)
        queue.run().answer(5, p_skip_users=["passed-over"] if number < 2 else [])
    served = [each for each in serve(queue, 100) if each.startswith("newcomer")]
    assert served == sorted(served)


def test_a_retry_does_not_wait_for_its_users_backlog(queue: Queue, clock: Clock) -> None:
    """A job that failed once is retried soon, however much its user has ordered meanwhile."""
    queue.enqueue("busy", examples=100)
    queue.enqueue("other", examples=100)
    (job,) = queue.run().claim(1)
    queue.settle(job, "retry", retryInSeconds=5)
    clock.advance(5)
    assert job["id"] in [each["id"] for each in queue.run().claim(4)]


def test_a_released_job_keeps_its_place(queue: Queue) -> None:
    """Given back without having had its turn, a job is next."""
    queue.enqueue("first", examples=3)
    queue.enqueue("other", examples=3)
    job = queue.run().claim(1)[0]
    queue.settle(job, "released", attemptSpent=False)
    (again,) = queue.run().claim(1)
    assert again["id"] == job["id"]


def test_a_user_who_is_ordering_gets_retries_later(
    queue: Queue, clock: Clock, another: Callable[[], Queue]
) -> None:
    """A claim does not wait for an order in progress: that user's due jobs come with the next claim."""
    (mine, theirs) = (queue.claimed(user_id=user) for user in ("ordering", "other"))
    for job in (mine, theirs):
        queue.settle(job, "retry", retryInSeconds=5)
    clock.advance(5)
    app = another()
    with app.connection.transaction(force_rollback=True):
        app.enqueue("ordering")
        assert [job["id"] for job in queue.run().claim()] == [theirs["id"]]
    assert [job["id"] for job in queue.run().claim()] == [mine["id"]]


def test_due_jobs_of_users_who_are_ordering_leave_their_place_to_others(
    queue: Queue, clock: Clock, another: Callable[[], Queue]
) -> None:
    """However many they are: a claim makes a limited number of due jobs ready, and does not count these."""
    for user, jobs in (("ordering", 2), ("other", 1)):
        queue.enqueue(user, examples=jobs)
        for job in queue.run().claim():
            queue.settle(job, "retry", retryInSeconds=5)
        clock.advance(1)
    clock.advance(5)
    app = another()
    with app.connection.transaction(force_rollback=True):
        app.enqueue("ordering")
        queue.connection.execute("select generation.promote_due_jobs(2)")
    ready = queue.connection.execute('select "userId" from generation.ready_jobs').fetchall()
    assert [row["userId"] for row in ready] == ["other"]
