"""Concurrent calls of all kinds: no deadlocks, and the counters are right."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Queue, Run, blocked, refused, result_of

WORKERS = 8
STEPS = 110
# Materialized: a plan may read a subquery again for each row, and then locks other rows in between.
EXPIRE = """
    with held as materialized (
      select id from photo_generation_queue where status = 'processing' limit 3 for update skip locked)
    update photo_generation_queue as q set "leaseExpiresAt" = now() from held where q.id = held.id"""
INSERT = """
    insert into photo_generation_queue
      ("batchId", "userId", "exampleImageUrl", "basePrompt", "numImagesPerExample")
    values ('shared', 'old', 'https://photos.example.com/a', 'x', 2)"""


class Worker:
    """Does what comes to its mind with the jobs and batches that all workers share."""

    def __init__(self, queue: Queue, seed: int, jobs: list[dict[str, Any]], batches: list[str]) -> None:
        self.queue, self.random, self.jobs, self.batches = queue, Random(seed), jobs, batches
        self.run: Run = queue.run()

    def work(self) -> None:
        """Takes its steps in sequence."""
        acts = [self.claim, self.claim, self.record, self.record, self.refuse, self.settle, self.settle]
        acts += [self.enqueue, self.cancel, self.retry, self.finish, self.release, self.expire, self.insert]
        for _ in range(STEPS):
            self.random.choice(acts)()

    def some(self) -> list[dict[str, Any]]:
        """Some jobs, fresh or long settled, in any order."""
        known = self.jobs[-60:]
        return self.random.sample(known, min(len(known), 8))

    def claim(self) -> None:
        self.jobs.extend(self.run.claim(self.random.randint(1, 6)))

    def record(self) -> None:
        for job in self.some():
            self.queue.record(job, self.random.randrange(2), str(self.random.random()))

    def refuse(self) -> None:
        for job in self.some()[:2]:
            self.queue.refuse(job, self.random.randrange(2))

    def settle(self) -> None:
        outcomes = ["completed", "completed", "failed", "retry", "rate_limited", "released"]
        self.queue.settle_all([result_of(job, self.random.choice(outcomes)) for job in self.some()])

    def enqueue(self) -> None:
        user = self.random.choice("abc")
        answer = self.queue.enqueue(user, examples=self.random.randint(1, 6), images=2, maxAttempts=2)
        self.batches.append(answer["batchId"])

    def cancel(self) -> None:
        batch_id = self.random.choice(self.batches[-6:])
        self.queue.call("cancel_generation_batch", p_batch_id=batch_id)

    def retry(self) -> None:
        refused = self.random.random() < 0.3
        self.queue.call("retry_failed_generation_jobs", p_including_refused=refused)

    def finish(self) -> None:
        self.run.finish(*(job["id"] for job in self.some()))
        self.run = self.queue.run()

    def release(self) -> None:
        self.queue.call("release_stale_generation_jobs", p_older_than_seconds=-1)

    def expire(self) -> None:
        self.queue.connection.execute(EXPIRE)

    def insert(self) -> None:
        self.queue.connection.execute(INSERT)


def test_everybody_at_once(queue: Queue, another: Callable[[], Queue]) -> None:
    """Claims, records, settles, cancels, retries and inserts at once neither deadlock nor miscount."""
    jobs: list[dict[str, Any]] = []
    batches = [queue.enqueue(examples=5, images=2)["batchId"]]
    workers = [Worker(another(), seed, jobs, batches) for seed in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(worker.work) for worker in workers]:
            done.result()
    check_invariants(queue.connection)
    statuses = queue.connection.execute("select distinct status from photo_generation_queue").fetchall()
    assert {row["status"] for row in statuses} >= {"completed", "cancelled"}


def test_settles_of_the_same_jobs_in_opposite_orders_do_not_deadlock(
    queue: Queue, another: Callable[[], Queue]
) -> None:
    """The two workers wait for each other."""
    queue.enqueue("a", examples=30)
    queue.enqueue("b", examples=30)
    jobs = queue.run().claim()
    results = [result_of(job, "failed") for job in jobs]
    ours, theirs = another(), another()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ours.settle_all, results)
        second = pool.submit(theirs.settle_all, results[::-1])
        told = [entry["result"] for entry in first.result() + second.result()]
    assert sorted(told) == ["lease_lost"] * 60 + ["settled"] * 60
    check_invariants(queue.connection)


def test_a_claim_waits_for_its_run_before_it_holds_a_gate(queue: Queue, another: Callable[[], Queue]) -> None:
    """A claim that puts a gate right and the finish of its run, which counts at gates, do not deadlock."""
    run, claiming, finishing = queue.run(), another(), another()
    queue.connection.execute("update generation.gates set \"limitedAt\" = now() + interval '1 day'")
    finishing.connection.execute("begin")
    finishing.call("finish_generation_run", p_run_id=run.id, p_worker_id=run.worker, p_summary={})
    with blocked(claiming, lambda other: other.run().answer(p_run_id=run.id), queue) as claimed:
        finishing.connection.execute("select from generation.gates for no key update nowait; commit")
    with refused("409", "run_finished"):
        claimed.result()
