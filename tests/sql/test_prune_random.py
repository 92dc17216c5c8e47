"""Pruning beside everything else: no photo's row is ever lost, and there are no deadlocks."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import psycopg
import pytest

from tests.sql.test_prune import prune, sweep
from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Clock, Queue, Run, refused, result_of

DAY = 24 * 3600
USERS = ["abcd", "efgh", "ijkl", "mnop", "qrst", "uvwx"]
GONE = """
    select (select last_value from photo_generation_queue_id_seq) - count(*) as jobs
    from photo_generation_queue"""
AGE = """
    update photo_generation_batches set "completedAt" = "completedAt" - interval '3 days'
    where id in (select id from photo_generation_batches order by id for update skip locked)"""


class Everyone:
    """Does at random what workers, sweeps, operators and customers do."""

    def __init__(self, queue: Queue, random: Random, jobs: list[dict[str, Any]], users: str) -> None:
        self.queue, self.random, self.jobs, self.users = queue, random, jobs, users
        self.run: Run = queue.run()

    def act(self) -> None:
        """A random action of a caller."""
        acts = [self.enqueue, self.claim, self.claim, self.record, self.record, self.record, self.settle]
        acts += [self.settle, self.retry, self.finish, self.cancel, self.sweep, self.prune, self.prune]
        self.random.choice(acts)()

    def some(self) -> list[dict[str, Any]]:
        """Some jobs that were claimed, in any order."""
        known = self.jobs[-30:]
        return self.random.sample(known, min(len(known), 4))

    def enqueue(self) -> None:
        self.queue.enqueue(self.random.choice(self.users), self.random.randint(1, 3), 2)

    def claim(self) -> None:
        self.run = self.queue.run()
        self.jobs.extend(self.run.claim(self.random.randint(1, 5)))

    def record(self) -> None:
        for job in self.some():
            self.queue.record(job, self.random.randrange(2), f"{self.random.random()}")

    def settle(self) -> None:
        outcomes = ["completed", "failed", "retry", "released"]
        self.queue.settle_all([result_of(job, self.random.choice(outcomes)) for job in self.some()])

    def retry(self) -> None:
        self.queue.call("retry_failed_generation_jobs", p_limit=5)

    def finish(self) -> None:
        self.run.finish()

    def cancel(self) -> None:
        for job in self.some()[:1]:
            found = "select from photo_generation_batches where id = %s and status = 'generating'"
            if self.queue.connection.execute(found, [job["batchId"]]).fetchall():
                try:
                    self.queue.call("cancel_generation_batch", p_batch_id=job["batchId"])
                except psycopg.Error as error:  # pruned or erased since the look
                    assert error.sqlstate == "PT404"

    def sweep(self) -> None:
        sweep(self.queue)

    def prune(self) -> None:
        prune(self.queue, 1, self.random.choice([1, 3, 100]))

    def erase(self) -> None:
        """Erase the user who ordered longest ago, who then never orders again."""
        user, self.users = self.users[0], self.users[1:]
        self.queue.call("erase_generation_user", p_user_id=user)
        with refused("409", "user_being_erased"):
            self.queue.enqueue(user)


@pytest.mark.parametrize("seed", range(6))
def test_no_photo_is_ever_lost(queue: Queue, clock: Clock, seed: int) -> None:
    """Whatever happens between, every photo's row stays, and the rest of the queue is consistent."""
    random = Random(seed)
    everyone = Everyone(queue, random, [], "abc")
    seen: dict[int, Any] = {}
    acts = [everyone.act] * 80 + [everyone.finish, everyone.sweep, everyone.prune]
    for act in acts:
        act()
        clock.advance(random.choice([0, 5, 700, 5 * 3600, 2 * DAY]) if act == everyone.act else 2 * DAY)
        rows = queue.connection.execute("select * from photo_generation_photos").fetchall()
        photos = {row["id"]: row for row in rows}
        assert seen.items() <= photos.items()
        seen = photos
        check_invariants(queue.connection)
    assert seen
    assert queue.one(GONE)["jobs"] > 0, "nothing was pruned"


def test_everybody_at_once(queue: Queue, another: Callable[[], Queue]) -> None:
    """Pruning and erasing deadlock with no claim, record, settle, retry, sweep or cancel meanwhile."""
    jobs: list[dict[str, Any]] = []
    # Each orders for users of its own, some of whom it erases while others work on their jobs.
    everybody = [Everyone(another(), Random(seed), jobs, users) for seed, users in enumerate(USERS)]

    def work(each: Everyone) -> None:
        for step in range(80):
            each.act()
            if step % 5 == 0:
                each.queue.connection.execute(AGE)
                each.prune()
            if step % 30 == 29:
                each.erase()

    with ThreadPoolExecutor(len(USERS)) as pool:
        for done in [pool.submit(work, each) for each in everybody]:
            done.result()
    check_invariants(queue.connection)
    assert queue.one(GONE)["jobs"] > 0
    left = queue.connection.execute('select distinct "userId" as id from photo_generation_photos').fetchall()
    assert {row["id"] for row in left} <= {user for each in everybody for user in each.users}
