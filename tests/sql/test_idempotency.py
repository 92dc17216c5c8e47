"""Enqueue: one key gives one batch, and who the batch is for comes from the caller's role."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from postgrest.exceptions import APIError
from supabase import AsyncClient

from local.install_sql import SQL, functions, migrations
from tests.support.installation import User
from tests.support.queue_sql import Queue, blocked, order, refused


@pytest.mark.parametrize("key", ["", " ", "x" * 201])
def test_an_idempotency_key_has_1_to_200_characters(queue: Queue, key: str) -> None:
    """A key of any other length is refused."""
    with refused("400", "too_long" if len(key) > 1 else "empty", "idempotency key"):
        queue.call("enqueue_generation_batch", p_request=order(), p_idempotency_key=key)


def test_same_key_same_answer(queue: Queue) -> None:
    """The same key and request return the first batch, whatever the order of the fields."""
    request = order()
    first = queue.call("enqueue_generation_batch", p_request=request, p_idempotency_key="k")
    again = dict(reversed(request.items()))
    second = queue.call("enqueue_generation_batch", p_request=again, p_idempotency_key="k")
    assert first["created"] and second == first | {"created": False}
    assert queue.written()["photo_generation_batches"] == 1


def test_same_key_other_request(queue: Queue) -> None:
    """A key used for another request is a conflict and changes nothing; another user's key is another key."""
    queue.call("enqueue_generation_batch", p_request=order(), p_idempotency_key="k")
    before = queue.written()
    with refused("409", "idempotency_key_reused"):
        queue.call("enqueue_generation_batch", p_request=order(images=2), p_idempotency_key="k")
    assert queue.written() == before
    assert queue.call("enqueue_generation_batch", p_request=order("user-2"), p_idempotency_key="k")["created"]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_same_key_at_once(queue: Queue, another: Callable[[], Queue], ends: str) -> None:
    """A repeated request waits for the first: it gets its batch, or makes one if that was rolled back."""

    def enqueue(on: Queue) -> Any:
        return on.call("enqueue_generation_batch", p_request=order(), p_idempotency_key="k")

    watcher = another()
    queue.connection.execute("begin")
    first = enqueue(queue)
    with blocked(another(), enqueue, watcher) as second:
        queue.connection.execute(ends)
        answer = second.result()
    assert answer["created"] is (ends == "rollback")
    assert (answer["batchId"] == first["batchId"]) is (ends == "commit")
    assert queue.written()["photo_generation_batches"] == 1


def advisory_locks(queue: Queue) -> set[tuple[int, int, int]]:
    """The advisory locks of the connection: class, object, and 2 for those with two integers."""
    held = queue.connection.execute("""
        select classid::bigint as class, objid::bigint as object, objsubid as form from pg_locks
        where locktype = 'advisory' and pid = pg_backend_pid()""")
    return {(row["class"], row["object"], row["form"]) for row in held.fetchall()}


def test_a_key_decides_over_no_advisory_lock(queue: Queue) -> None:
    """Hashes collide, and users choose their keys, so no key may select a lock that others need."""
    held = []
    for key in (None, "k", "l"):
        with queue.connection.transaction():
            queue.call("enqueue_generation_batch", p_request=order(), p_idempotency_key=key)
            held.append(advisory_locks(queue))
    assert held[1:] == held[:1] * 2


def test_each_purpose_has_a_class_of_advisory_locks(queue: Queue) -> None:
    """An id that users bring along collides with no lock of another purpose, such as the one of new runs."""
    with queue.connection.transaction():
        queue.enqueue()
        ordering = advisory_locks(queue)
    with queue.connection.transaction():
        run = queue.run()
        run.claim()
        claiming = advisory_locks(queue)
    with queue.connection.transaction():
        run.finish()
        finishing = advisory_locks(queue)
    held = ordering | claiming | finishing
    assert {form for _, _, form in held} == {2}
    assert [len({purpose for purpose, _, _ in each}) for each in (ordering, claiming, finishing)] == [1, 2, 1]
    assert len(held) == len({purpose for purpose, _, _ in held}) == 3


def test_every_advisory_lock_names_its_purpose() -> None:
    """The class of each lock is a constant, also in optional files, so no id can change it."""
    calls = [
        call
        for path in (*migrations(), *functions(), *(SQL / "schedule").glob("*.sql"))
        for call in re.findall(r"pg_\w*advisory\w*(\(.*)", path.read_text())
    ]
    named = [re.match(r"\(generation\.lock_class\('([a-z]+)'\), ", call) for call in calls]
    assert all(named), calls
    assert {match[1] for match in named if match} == {"run", "runs", "user", "requests", "kick"}


def test_an_advisory_lock_of_no_known_purpose_is_an_error(queue: Queue) -> None:
    """A misspelled purpose would be a lock that nobody else takes."""
    with pytest.raises(psycopg.Error, match='there is no advisory lock for "rnu"'):
        queue.one("select generation.lock_class('rnu')")
    with pytest.raises(psycopg.Error, match="there is no advisory lock"):
        queue.one("select generation.lock_class(null)")


async def test_users_order_for_themselves(
    queue: Queue, user: Callable[[], Awaitable[User]], service: AsyncClient
) -> None:
    """A signed-in user's order is theirs by their token; the service role names the user."""
    someone = await user()
    request = order(someone.id)
    await service.rpc("enqueue_generation_batch", {"p_request": request}).execute()
    own = {key: value for key, value in request.items() if key != "userId"}
    await someone.client.rpc("enqueue_generation_batch", {"p_request": own}).execute()
    owners = queue.connection.execute(
        'select distinct "userId" as id, count(*) as n from photo_generation_batches group by 1'
    )
    assert owners.fetchall() == [{"id": someone.id, "n": 2}]


@pytest.mark.parametrize(("field", "value"), [("userId", "user-2"), ("priority", 5), ("maxAttempts", 20)])
async def test_users_cannot_order_for_others_or_set_priority_or_attempts(
    queue: Queue, user: Callable[[], Awaitable[User]], field: str, value: object
) -> None:
    """A signed-in user cannot order for others, jump the queue or buy attempts."""
    someone = await user()
    request = {key: value for key, value in order(someone.id).items() if key != "userId"} | {field: value}
    with pytest.raises(APIError) as caught:
        await someone.client.rpc("enqueue_generation_batch", {"p_request": request}).execute()
    assert (caught.value.code, caught.value.details) == ("PT400", "not_yours_to_set")
    assert field in str(caught.value.message)
    assert set(queue.written().values()) == {0}
