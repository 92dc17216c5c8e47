"""Erasing a user: no table has anything of the user left, and nothing of others changes."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Clock, Queue, blocked, order, refused

TEN_MINUTES = 600
GONER = "goner-4711"
TABLES = """
    select n.nspname || '.' || c.relname as name
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p')
      and (n.nspname = 'generation' or n.nspname = 'public' and c.relname like 'photo\\_generation\\_%')"""
INSERT = """
    insert into photo_generation_queue
      ("batchId", "userId", "exampleImageUrl", "basePrompt", "numImagesPerExample")
    values (%s, %s, 'https://photos.example.com/a', 'x', 2)"""


def traces(queue: Queue, text: str) -> dict[str, int]:
    """The tables that have rows with this text in any column, and how many."""
    names = [row["name"] for row in queue.connection.execute(TABLES).fetchall()]
    assert len(names) >= 13
    found = {}
    for name in names:
        query = f"select count(*) as n from {name} as t where strpos(t::text, %s) > 0"
        found[name] = queue.one(query.encode(), [text])["n"]
    return {name: count for name, count in found.items() if count}


def erase(queue: Queue, user_id: str | None = GONER) -> dict[str, Any]:
    """The answer of erasing."""
    answer: dict[str, Any] = queue.call("erase_generation_user", p_user_id=user_id)
    return answer


def lived(queue: Queue, user_id: str) -> list[dict[str, Any]]:
    """A user with jobs in every state; those claimed."""
    queue.call(
        "enqueue_generation_batch", p_request=order(user_id, 5, 2), p_idempotency_key=f"key of {user_id}"
    )
    run = queue.run()
    done, bad, late, held, waiting = [job for job in run.claim() if job["userId"] == user_id]
    queue.complete(done)
    queue.record(bad, 0)
    queue.refuse(bad, 1)
    queue.settle(bad, "failed")
    queue.record(held, 1)
    queue.settle(waiting, "rate_limited", retryInSeconds=600)
    queue.settle(late, "released")
    queue.call("cancel_generation_batch", p_batch_id=queue.enqueue(user_id)["batchId"])
    queue.enqueue(user_id, priority=3)
    return [done, bad, late, held, waiting]


def test_no_trace_is_left(queue: Queue, clock: Clock) -> None:
    """Every row that names the user goes at once, and the erasure itself once the folder is empty."""
    lived(queue, GONER)
    assert len(traces(queue, GONER)) >= 5
    answer = erase(queue)
    counted = {"jobsRemoved": 7, "batchesRemoved": 3, "photosRemoved": 4, "keysRemoved": 1}
    assert answer == counted | {"userFolder": GONER}
    assert traces(queue, GONER) == {"generation.erasures": 1}
    assert queue.one("select count(*) as n from generation.failed_images")["n"] == 0
    clock.advance(TEN_MINUTES)
    for expected in (False, True):
        assert queue.call("generation_erasures_to_sweep") == {"folders": [GONER]}
        clock.advance(1)
        told = queue.call("settle_generation_erasure", p_user_folder=GONER, p_empty=True)
        assert told == {"done": expected}
        clock.advance(1)
    assert traces(queue, GONER) == {}
    assert queue.call("generation_erasures_to_sweep") == {"folders": []}


def test_erasing_a_user_changes_nothing_of_any_other(queue: Queue, clock: Clock) -> None:
    """Other users keep everything, even if their id starts with the same letters."""
    for other in (f"{GONER}0", "a"):
        lived(queue, other)

    def others() -> list[Any]:
        tables = ("photo_generation_queue", "photo_generation_batches", "photo_generation_photos")
        return [
            queue.connection.execute(
                f'select * from {table} where "userId" <> %s order by id'.encode(), [GONER]
            ).fetchall()
            for table in tables
        ] + [queue.connection.execute("select * from generation.failed_images order by 1, 2").fetchall()]

    before = others()
    erase(queue)
    assert others() == before
    assert len(before[0]) == 14
    check_invariants(queue.connection)


def test_a_worker_at_work_learns_it(queue: Queue) -> None:
    """A worker with a job of the user hears that the job has ended, and changes nothing."""
    jobs = lived(queue, GONER)
    erase(queue)
    for job in jobs:
        assert queue.record(job, 0) == {"result": "job_final", "storagePath": None}
        assert queue.refuse(job, 0) == "job_final"
        assert queue.settle(job, "completed")["result"] == "lease_lost"
    assert queue.run().claim() == []
    assert queue.one("select count(*) as n from photo_generation_photos")["n"] == 0
    assert queue.call("generation_jobs_to_sweep")["jobs"] == []


def test_a_second_erasure_finds_nothing(queue: Queue, clock: Clock) -> None:
    """A second erasure does not delay the end of the first one."""
    lived(queue, GONER)
    erase(queue)
    asked = queue.one("select * from generation.erasures")
    clock.advance(60)
    assert erase(queue) == {
        "jobsRemoved": 0, "batchesRemoved": 0, "photosRemoved": 0, "keysRemoved": 0, "userFolder": GONER,
    }  # fmt: skip
    assert queue.one("select * from generation.erasures") == asked


def test_no_orders_until_it_is_done(queue: Queue, clock: Clock) -> None:
    """While the folder is being emptied the user orders nothing, in neither way: it would lose its photos."""
    erase(queue)
    with refused("409", "user_being_erased"):
        queue.enqueue(GONER)
    with refused("409", "user_being_erased"):
        queue.connection.execute(INSERT, ["b", GONER])
    queue.enqueue(f"{GONER}0")
    queue.connection.execute("delete from generation.erasures")
    assert queue.enqueue(GONER)["created"] is True


@pytest.mark.parametrize("way", ["enqueue", "insert"])
def test_an_order_under_way_is_erased_too(queue: Queue, another: Callable[[], Queue], way: str) -> None:
    """An erasure waits for an order that is just being made, and then takes it along."""
    watcher = another()
    queue.connection.execute("begin")
    if way == "enqueue":
        queue.enqueue(GONER)
    else:
        queue.connection.execute(INSERT, ["b", GONER])
    with blocked(another(), erase, watcher) as erasing:
        queue.connection.execute("commit")
        assert erasing.result()["jobsRemoved"] == 1
    assert traces(queue, GONER) == {"generation.erasures": 1}


def test_an_order_during_an_erasure_waits(queue: Queue, another: Callable[[], Queue]) -> None:
    """An order during the erasure waits for it, and is then refused."""
    watcher = another()
    queue.connection.execute("begin")
    erase(queue)
    ordering = another()

    def order_and_see(on: Queue) -> None:
        with refused("409", "user_being_erased"):
            on.enqueue(GONER)

    with blocked(ordering, order_and_see, watcher) as refusal:
        queue.connection.execute("commit")
        refusal.result()
    assert traces(queue, GONER) == {"generation.erasures": 1}


def test_not_done_too_early(queue: Queue, clock: Clock) -> None:
    """Within ten minutes an empty folder proves nothing, afterwards it takes two looks in a row."""

    def look(empty: bool) -> bool:
        queue.call("generation_erasures_to_sweep")
        clock.advance(1)
        answer = queue.call("settle_generation_erasure", p_user_folder=GONER, p_empty=empty)
        clock.advance(1)
        return bool(answer["done"])

    erase(queue)
    assert [look(True) for _ in range(3)] == [False] * 3
    clock.advance(TEN_MINUTES)
    assert [look(empty) for empty in (True, False, True)] == [False] * 3
    empty = {"p_user_folder": GONER, "p_empty": True}
    assert queue.call("settle_generation_erasure", **empty) == {"done": False}, "told twice, looked once"
    assert look(True)
    assert queue.call("settle_generation_erasure", **empty) == {"done": True}


def test_erasures_take_turns(queue: Queue, clock: Clock) -> None:
    """A folder that cannot be emptied delays no other: the one that was just tried comes last."""
    for user in ("a", "b", "c"):
        erase(queue, user)
        clock.advance(1)
    seen = []
    for _ in range(4):
        seen += queue.call("generation_erasures_to_sweep", p_limit=1)["folders"]
        clock.advance(1)
    assert seen == ["a", "b", "c", "a"]


@pytest.mark.parametrize("user_id", ["a/b", ".."])
def test_ids_that_name_no_folder(queue: Queue, user_id: str) -> None:
    """An old user whose id would be in another's folder loses the rows, and no folder is emptied."""
    queue.enqueue()
    for table in ("photo_generation_queue", "photo_generation_batches"):
        queue.connection.execute(f'update {table} set "userId" = %s'.encode(), [user_id])
    answer = erase(queue, user_id)
    assert (answer["jobsRemoved"], answer["userFolder"]) == (1, None)
    assert traces(queue, user_id) == {}


def test_ids_of_third_parties(queue: Queue) -> None:
    """An id that Storage does not allow in names is erased under its encoded folder."""
    theirs: dict[str, Any] = {
        "user_id": "auth0|1",
        "trainingImageUrls": ["https://photos.example.com/me.jpg"],
    }
    queue.enqueue(**theirs)
    assert erase(queue, "auth0|1")["userFolder"] == "auth0=7C1"
    with refused("409", "user_being_erased"):
        queue.enqueue(**theirs)


@pytest.mark.parametrize("owner", [GONER, "other"])
def test_batches_shared_by_direct_inserts(queue: Queue, owner: str) -> None:
    """If an app inserted jobs of several users into a batch, the other users' part stays right."""
    for user in (owner, GONER, "other", GONER):
        queue.connection.execute(INSERT, ["shared", user])
    claimed = {job["id"]: job for job in queue.run().claim()}
    for number, job in enumerate(claimed.values()):
        queue.record(job, 0)
        if number % 2:
            queue.settle(job, "failed")
        else:
            queue.refuse(job, 1)
    assert traces(queue, GONER)
    erase(queue)
    assert traces(queue, GONER) == {"generation.erasures": 1}
    assert queue.batch("shared")["userId"] == "other"
    check_invariants(queue.connection)


def test_erase_without_a_user_or_folder_does_nothing(queue: Queue) -> None:
    """Erasing needs a user id, and emptying needs a folder."""
    for user_id in (None, ""):
        with refused("400", "missing"):
            erase(queue, user_id)
