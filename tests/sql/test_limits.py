"""What one signed-in user may order: images waiting, images and dollars a day, never all of a daily cap."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.support.databases import Database
from tests.support.queue_sql import Clock, Queue, blocked, order, refused
from worker.gemini.models import DEFAULT_MODEL

INSTALLED: dict[str, object] = {
    "imagesPerDay": None,
    "dollarsPerDay": 50,
    "userImagesQueued": 500,
    "userImagesPerDay": 1000,
    "userDollarsPerDay": 20,
}
MIDNIGHT = datetime(2026, 5, 5, 7, tzinfo=UTC)
"""Of California, after the noon at which the tests' clock stands still."""
CHEAP, DEAR = DEFAULT_MODEL, "gemini-3-pro-image"  # $0.039 and $0.134 an image


def limit(queue: Queue, **limits: object) -> dict[str, Any]:
    """No limits but these; the gate as it is then."""
    told: dict[str, Any] = queue.call("set_generation_limits", p_limits=dict.fromkeys(INSTALLED) | limits)
    return told


def signed_in(queue: Queue, user_id: str) -> Queue:
    """The connection acts as a user from now on, as the API sets it for a request."""
    claims = json.dumps({"role": "authenticated", "sub": user_id})
    queue.connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
    queue.connection.execute("set role authenticated")
    return queue


def ask(user: Queue, user_id: str, examples: int, images: int = 1, key: str | None = None) -> dict[str, Any]:
    """A user's own order; the answer."""
    request = order(user_id, examples, images)
    del request["userId"]
    answer: dict[str, Any] = user.call("enqueue_generation_batch", p_request=request, p_idempotency_key=key)
    return answer


def refusals(user: Queue, user_id: str, orders: int, examples: int, images: int) -> list[str]:
    """The refusal codes of orders, made in sequence."""
    reasons = []
    for _ in range(orders):
        try:
            ask(user, user_id, examples, images)
        except psycopg.Error as error:
            assert error.sqlstate == "PT429"
            reasons.append(str(error.diag.message_detail))
    return reasons


@pytest.fixture
def user(queue: Queue, another: Callable[[], Queue]) -> Queue:
    """A connection of a signed-in user, with the limits of a fresh installation."""
    limit(queue, **INSTALLED)
    return signed_in(another(), "stranger")


def accepted(queue: Queue) -> int:
    """The images of all orders."""
    return int(queue.one('select coalesce(sum("imagesTotal"), 0) as n from photo_generation_batches')["n"])


def test_a_strangers_fortune_is_refused_at_once(queue: Queue, user: Queue) -> None:
    """Forty orders of a thousand images each, which would cost $1 560: none is taken."""
    assert refusals(user, "stranger", 40, 100, 10) == ["user_queue_full"] * 40
    assert set(queue.written().values()) == {0}


def test_many_connections_at_once_get_no_more(queue: Queue, another: Callable[[], Queue]) -> None:
    """Eight connections that order at the same time have what one would have, to the image."""
    limit(queue, **INSTALLED)
    users = [signed_in(another(), "stranger") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda each: refusals(each, "stranger", 12, 10, 1), users))
    assert accepted(queue) == 500
    assert sum(map(len, done)) == 8 * 12 - 50


def test_one_user_does_not_use_up_a_cap(queue: Queue, user: Queue) -> None:
    """Half of what all may start a day is the most, so that others still have their photos made."""
    for limits, most in (
        ({"dollarsPerDay": 3.9}, 50),
        ({"imagesPerDay": 31}, 15),
        ({"imagesPerDay": 1000, "dollarsPerDay": 0.78}, 10),
        ({"imagesPerDay": 1}, 1),
    ):
        told = limit(queue, **limits)
        assert told["userImagesAllowed"] == most, limits
        name = f"user-of-{most}"
        signed_in(user, name)
        ask(user, name, examples=most)
        with refused("429", "user_daily_limit", f"one user may order {most} a day"):
            ask(user, name, examples=1)


@pytest.mark.parametrize("made", [True, False], ids=["made", "waiting"])
def test_what_yesterday_left_counts_today(queue: Queue, user: Queue, clock: Clock, made: bool) -> None:
    """Orders of two days are not made on one, at everybody's cost: neither before nor after they are made."""
    limit(queue, imagesPerDay=20)
    ask(user, "stranger", examples=10)
    clock.set(MIDNIGHT + timedelta(hours=1))
    if made:
        for job in queue.run().claim():
            queue.complete(job, requests=1)
    with refused("429", "user_daily_limit", "10 of your images count for today"):
        ask(user, "stranger", examples=1)


def test_an_order_that_midnight_overtook_keeps_the_days_count(
    queue: Queue, user: Queue, another: Callable[[], Queue], clock: Clock
) -> None:
    """A transaction that began before midnight and orders after one of the new day does not reset it."""
    limit(queue, userImagesPerDay=10)
    late = signed_in(another(), "stranger")
    clock.set(MIDNIGHT)
    ask(user, "stranger", examples=10)
    clock.set(MIDNIGHT - timedelta(seconds=1))
    with refused("429", "user_daily_limit", "10 of your images count for today"):
        ask(late, "stranger", examples=1)
    clock.set(MIDNIGHT)
    with refused("429", "user_daily_limit", "10 of your images count for today"):
        ask(user, "stranger", examples=1)


def test_the_queue_has_room_again_when_images_are_made(queue: Queue, user: Queue) -> None:
    """Images that are made, given up or cancelled no longer wait."""
    limit(queue, userImagesQueued=6)
    ask(user, "stranger", examples=1, images=4)
    with refused("429", "user_queue_full", "4 of your images are not made yet and this order has 4 more"):
        ask(user, "stranger", examples=1, images=4)
    (job,) = queue.run().claim()
    queue.record(job, 0)
    queue.refuse(job, 1)
    batch = ask(user, "stranger", examples=1, images=4)["batchId"]
    with refused("429", "user_queue_full"):
        ask(user, "stranger", examples=1)
    user.call("cancel_generation_batch", p_batch_id=batch)
    assert ask(user, "stranger", examples=4)["imagesEnqueued"] == 4


def test_ordering_and_cancelling_is_not_free(queue: Queue, user: Queue) -> None:
    """A cancelled order counts for its day, or cancelling would make the limit one of what is waiting."""
    limit(queue, userImagesPerDay=10)
    for _ in range(2):
        user.call("cancel_generation_batch", p_batch_id=ask(user, "stranger", examples=5)["batchId"])
    with refused("429", "user_daily_limit", "10 of your images count for today"):
        ask(user, "stranger", examples=1)


@pytest.mark.parametrize("outcome", ["retry", "rate_limited", "released"])
def test_requests_in_vain_do_not_use_up_a_cap(
    queue: Queue, user: Queue, another: Callable[[], Queue], clock: Clock, outcome: str
) -> None:
    """A user with many requests, whatever their results, waits for the next day."""
    limit(queue, imagesPerDay=40)
    ask(user, "stranger", examples=10)
    sent = 0
    for _ in range(40):
        clock.advance(120)
        for job in queue.run().claim(4):
            queue.settle(job, outcome, code="timeout", message="None.", requests=2, attemptSpent=False)
            sent += 2
    assert sent == 32  # three quarters, and what the last claim had taken
    waiting = queue.connection.execute("select * from photo_generation_queue").fetchall()
    assert {(row["status"], row["retryAt"]) for row in waiting} == {("rate_limited", MIDNIGHT)}
    assert "user_daily_limit" in {row["errorCode"] for row in waiting}
    ask(signed_in(another(), "neighbour"), "neighbour", examples=1)
    (job,) = queue.run().claim()
    assert job["userId"] == "neighbour"
    queue.complete(job)
    clock.set(MIDNIGHT)
    assert len(queue.run().claim()) == 10


@pytest.mark.parametrize("again", [False, True], ids=["alone", "with-new-orders"])
def test_midnight_brings_no_block_of_jobs(
    queue: Queue, user: Queue, another: Callable[[], Queue], clock: Clock, again: bool
) -> None:
    """The jobs of a user that waited for the next day take turns with others, in one line with new ones."""
    limit(queue, imagesPerDay=200)
    ask(user, "stranger", examples=80)
    (job,) = queue.run().claim(1)
    queue.settle(job, "retry", requests=160, retryInSeconds=3600)
    for number in range(10):
        queue.enqueue(f"other-{number}", examples=10)
        for each in queue.run().claim(20):
            queue.complete(each)
    clock.set(MIDNIGHT)
    victim = signed_in(another(), "victim")
    ask(victim, "victim", examples=20)
    served = [each["userId"] for each in queue.run().claim(1)]
    if again:
        ask(user, "stranger", examples=20)
    while served.count("victim") < 20:
        (each,) = queue.run().claim(1)
        served.append(each["userId"])
        queue.complete(each)
    assert len(served) <= 41


def test_requests_that_are_under_way_count_as_well(queue: Queue, user: Queue) -> None:
    """However many runs claim before anything is settled, they take no more than could be sent."""
    limit(queue, imagesPerDay=100)
    ask(user, "stranger", examples=50)
    claimed = sum(len(queue.run().claim(10)) for _ in range(10))
    assert claimed == 40  # two requests each: 80, and what the last claim had begun
    service = queue.enqueue("customer", examples=1)
    (job,) = queue.run().claim(10)
    assert job["batchId"] == service["batchId"]


def test_cancelling_hides_no_request(queue: Queue, user: Queue) -> None:
    """Requests count even if their order was cancelled before the settle."""
    limit(queue, imagesPerDay=40)
    batch = ask(user, "stranger", examples=1)["batchId"]
    (job,) = queue.run().claim()
    user.call("cancel_generation_batch", p_batch_id=batch)
    for _ in range(2):  # repeated, since its answer was lost
        assert queue.settle(job, "retry", requests=30)["result"] == "lease_lost"
    with refused("429", "user_daily_limit", "30 of your images count for today"):
        ask(user, "stranger", examples=1)


def test_what_is_cancelled_in_progress_counts_until_its_worker_has_told(
    queue: Queue, user: Queue, clock: Clock
) -> None:
    """Ordering and cancelling in turn allows no more pending requests than ordering alone."""
    limit(queue, imagesPerDay=100)
    taken = []
    for _ in range(9):
        batch = ask(user, "stranger", examples=5)["batchId"]
        taken.append(queue.run().claim(5))
        if taken[-1]:
            user.call("cancel_generation_batch", p_batch_id=batch)
    assert [len(jobs) for jobs in taken] == [5] * 8 + [0]  # two requests each: 80, over three quarters of 100
    for job in taken[0]:
        queue.settle(job, "released", requests=0)
    assert len(queue.run().claim(5)) == 5
    user.call("cancel_generation_batch", p_batch_id=batch)
    clock.advance(300)  # their leases have ended
    ask(user, "stranger", examples=5)
    assert len(queue.run().claim(5)) == 5


def test_claims_at_once_do_not_overlook_each_other(
    queue: Queue, user: Queue, another: Callable[[], Queue]
) -> None:
    """A claim waits for the one that is handing out jobs of the same users, and counts them."""
    limit(queue, imagesPerDay=40)
    ask(user, "stranger", examples=20)
    other, watcher = another(), another()
    first, second = queue.run(), other.run()
    assert len(first.claim(1) + second.claim(1)) == 2  # a new run's first claim waits for others anyway
    queue.connection.execute("begin")
    assert len(first.claim(13)) == 13  # of the three quarters of 40, with two requests each, nothing is left
    with blocked(other, lambda _: second.claim(5), watcher) as answer:
        queue.connection.execute("commit")
        assert answer.result() == []


def test_what_the_end_of_a_run_releases_counts(queue: Queue, user: Queue) -> None:
    """Each request that was pending when a run ended counts."""
    limit(queue, imagesPerDay=40)
    ask(user, "stranger", examples=2)
    run = queue.run()
    first, second = (job["id"] for job in run.claim())
    assert run.finish(*[first] * 20, *[second] * 10) == 2
    assert queue.run().claim() == []


def test_users_whose_server_orders_are_not_put_off(queue: Queue, clock: Clock) -> None:
    """A server with the service key knows what it orders, maybe all of it for one user."""
    limit(queue, imagesPerDay=10)
    queue.enqueue("customer", examples=1)
    (job,) = queue.run().claim()
    queue.settle(job, "retry", requests=9)
    clock.advance(60)
    assert len(queue.run().claim()) == 1


def test_without_a_cap_nobody_is_put_off(queue: Queue, user: Queue, clock: Clock) -> None:
    """There is nothing to reserve for others."""
    limit(queue)
    ask(user, "stranger", examples=1)
    (job,) = queue.run().claim()
    queue.settle(job, "retry", requests=10_000)
    clock.advance(60)
    assert len(queue.run().claim()) == 1


def test_a_new_day_has_room(queue: Queue, user: Queue, clock: Clock) -> None:
    """The day is California's, and the refusal says when it ends."""
    limit(queue, userImagesPerDay=3)
    ask(user, "stranger", examples=3)
    for job in queue.run().claim():
        queue.complete(job)
    with pytest.raises(psycopg.Error) as caught:
        ask(user, "stranger", examples=1)
    assert "2026-05-05 07:00 UTC" in str(caught.value.diag.message_hint)
    clock.set(MIDNIGHT - timedelta(seconds=1))
    with refused("429", "user_daily_limit"):
        ask(user, "stranger", examples=1)
    clock.set(MIDNIGHT)
    assert ask(user, "stranger", examples=3)["imagesEnqueued"] == 3


def test_an_order_that_is_never_possible_says_so(queue: Queue, user: Queue) -> None:
    """Waiting does not help whoever orders more at once than the limit: they learn how much they may."""
    for limits, reason in (
        ({"userImagesQueued": 5}, "user_queue_full"),
        ({"userImagesPerDay": 5}, "user_daily_limit"),
    ):
        limit(queue, **limits)
        with pytest.raises(psycopg.Error) as caught:
            ask(user, "stranger", examples=6)
        assert caught.value.diag.message_detail == reason
        assert "at most 5 images" in str(caught.value.diag.message_hint)


@pytest.mark.parametrize(
    ("limits", "first", "then", "hint"),
    [
        ({"userImagesPerDay": 5}, 3, 3, "Order at most 2 images today, or again after 2026-"),
        ({"userImagesPerDay": 5}, 5, 1, "Order again after 2026-"),
        ({"userImagesPerDay": 0}, 0, 1, "Users cannot order now"),
        ({"userImagesQueued": 0}, 0, 1, "Users cannot order now"),
    ],
)
def test_a_refusal_says_how_much_still_fits(
    queue: Queue, user: Queue, limits: dict[str, int], first: int, then: int, hint: str
) -> None:
    """An order that follows the hint is accepted: it names the remaining images of the day, if any."""
    limit(queue, **limits)
    if first:
        ask(user, "stranger", examples=first)
    with pytest.raises(psycopg.Error) as caught:
        ask(user, "stranger", examples=then)
    assert str(caught.value.diag.message_hint).startswith(hint)


def test_dollars_are_images_at_the_price_of_what_answers(queue: Queue, user: Queue) -> None:
    """The price is that of the model that started last, or of its successor; at first of the default."""
    assert limit(queue, userDollarsPerDay=3.9)["userImagesAllowed"] == 100
    for model, started in ((DEAR, "12:00"), (CHEAP, "11:00")):
        queue.call("set_generation_rate", p_model=model, p_rate=60)
        queue.connection.execute(
            """update generation.gates set "startTimes" = array[%s::timestamptz], "startCounts" = '{1}'
            where model = %s""",
            [f"2026-05-04 {started}Z", model],
        )
    assert limit(queue, userDollarsPerDay=3.9)["userImagesAllowed"] == 29
    queue.call("set_generation_model_successor", p_model=DEAR, p_successor=CHEAP)
    assert limit(queue, userDollarsPerDay=3.9)["userImagesAllowed"] == 100
    queue.call("set_generation_model_successor", p_model=DEAR, p_successor=None)
    queue.connection.execute('update generation.gates set "answeredBy" = %s where model = %s', [CHEAP, DEAR])
    assert limit(queue, userDollarsPerDay=3.9)["userImagesAllowed"] == 100


def test_a_repeated_order_is_counted_once(queue: Queue, user: Queue) -> None:
    """A key that was used is answered as before, though there is no room for its order any more."""
    limit(queue, userImagesQueued=5, userImagesPerDay=5)
    first = ask(user, "stranger", examples=5, key="k")
    again = ask(user, "stranger", examples=5, key="k")
    assert (again["batchId"], again["created"]) == (first["batchId"], False)
    with refused("429", "user_queue_full"):
        ask(user, "stranger", examples=5, key="another")


def test_the_service_and_other_users_pass(queue: Queue, user: Queue, another: Callable[[], Queue]) -> None:
    """A server orders for its users as much as it likes; one user's orders are not another's."""
    limit(queue, userImagesQueued=1, userImagesPerDay=1)
    service = another()
    service.connection.execute("set role service_role")
    assert service.enqueue("stranger", examples=100)["imagesEnqueued"] == 100
    with refused("429", "user_queue_full"):
        ask(user, "stranger", examples=1)
    assert ask(signed_in(user, "neighbour"), "neighbour", examples=1)["imagesEnqueued"] == 1


def test_without_limits_users_order_as_they_like(queue: Queue, user: Queue) -> None:
    """Each limit can be removed."""
    assert limit(queue)["userImagesAllowed"] is None
    for _ in range(3):
        ask(user, "stranger", examples=100, images=10)


@pytest.mark.parametrize(
    ("limits", "reason", "field"),
    [
        ({"userImagesQueued": -1}, "out_of_range", "userImagesQueued"),
        ({"userImagesPerDay": 1.5}, "wrong_type", "userImagesPerDay"),
        ({"userDollarsPerDay": "much"}, "out_of_range", "userDollarsPerDay"),
    ],
)
def test_limits_that_are_none(queue: Queue, limits: dict[str, object], reason: str, field: str) -> None:
    """A limit is a number from 0 or null."""
    with refused("400", reason, field):
        queue.call("set_generation_limits", p_limits=limits)


def test_a_fresh_installation_is_limited(installed: Database) -> None:
    """Nobody has to think of it: there is a daily cap, and limits per user that fit into it."""
    told = Queue(installed.connection).call("generation_gate")
    assert {name: told[name] for name in INSTALLED} == INSTALLED
    assert told["userImagesAllowed"] == 512


def test_an_update_keeps_the_caps_and_brings_the_limits(earlier: Callable[[str], Database]) -> None:
    """Without a daily cap before, there is none after an update; limits per user are new, and on."""
    made = earlier("0.1.0")
    made.install()
    told = Queue(made.connection).call("generation_gate")
    assert {name: told[name] for name in INSTALLED} == INSTALLED | {"dollarsPerDay": None}
