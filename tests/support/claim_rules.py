"""Orders come in, runs claim, take starts and end: the rules of a queue that is given out."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from tests.support.gate_model import HORIZON
from tests.support.gate_sql import MODEL
from tests.support.job_model import Job
from tests.support.machine import USERS, Claim, Handle, Machine, action, one
from tests.support.queue_model import Answer
from tests.support.queue_sql import refused

ORDER: dict[str, Any] = {
    "user": st.sampled_from(USERS),
    "examples": st.integers(1, 3),
    "images": st.integers(1, 4),
    "priority": st.sampled_from([0, 0, 5]),
    "most": st.sampled_from([2, 1, 3]),
}
CLAIM: dict[str, Any] = {
    "run": one(Machine.claimers),
    "most": st.sampled_from([3, 1, 2, 6]),
    "seconds": st.sampled_from([240, 270, 30]),
    "lost": st.sampled_from([False, False, False, True]),
}
TAKE: dict[str, Any] = {"slots": st.integers(1, 12), "within": st.sampled_from([None, None, 0, 4, 100])}
LATENCY = 4.0  # seconds, of every image that `Queue.record` records
INSERT = """
    insert into photo_generation_queue ("userId", "batchId", "exampleImageUrl", "basePrompt",
      "numImagesPerExample", priority, "maxAttempts", "createdAt")
    values (%s, %s, 'https://photos.example.com/a.jpg', 'A portrait', %s, %s, %s, generation.clock())
    returning id, "batchId" """
"""The test's clock is not that of the column's default, by which such a job would never become too old."""


def handed_out(job: Job) -> dict[str, object]:
    """The model's version of a job in the answer of a claim."""
    return {
        "id": job.id,
        "batchId": job.batch_id,
        "userId": job.user,
        "attempts": job.attempts,
        "maxAttempts": job.max_attempts,
        "crashes": job.crashes,
        "numImagesPerExample": job.images,
        "missing": job.missing,
        "claimedBefore": job.started != job.locked_at,
    }


class ClaimRules(Machine):
    """The rules of those who order, and of runs."""

    @initialize(orders=st.lists(st.fixed_dictionaries(ORDER), min_size=1, max_size=3))
    def enqueue_several(self, orders: list[dict[str, Any]]) -> None:
        """Apps have ordered batches."""
        for order in orders:
            self.enqueue(**order)

    @action(8, when=lambda m: len(m.model.ready()) < 5, **ORDER)
    def enqueue(self, user: str, examples: int, images: int, priority: int, most: int) -> None:
        """An app orders a batch."""
        answer = self.queue.enqueue(user, examples, images, priority=priority, maxAttempts=most)
        self.model.order(answer["batchId"], user, answer["jobIds"], images, priority, most)
        assert (answer["jobsEnqueued"], answer["imagesEnqueued"]) == (examples, examples * images)

    @action(
        2,
        when=lambda m: len(m.model.ready()) < 8,
        batch=one(lambda m: [None, *range(len(m.model.batches))]),
        images=st.integers(1, 4),
    )
    def insert(self, batch: int | None, images: int) -> None:
        """An app writes the row itself, into a batch that may have ended, or into none."""
        into = None if batch is None else list(self.model.batches.values())[batch]
        user = into.user if into else USERS[0]
        values = [user, into.id if into else None, images, 0, 2]
        if into and into.status == "cancelled":
            with refused("409", "batch_cancelled"):
                self.queue.one(INSERT, values)
            self.reached["insert refused"] += 1
            return
        self.reached[f"insert into {into.status if into else 'nothing'}"] += 1
        row = self.queue.one(INSERT, values)
        self.model.order(row["batchId"], user, [row["id"]], images, 0, 2)

    @action(16, when=Machine.claimable, **CLAIM)
    def claim(self, run: int, most: int, seconds: int, lost: bool) -> None:
        """A run claims; its answer may be lost."""
        if run == len(self.runs):
            self.begin()
        self.claims.append(Claim(run, uuid4(), most, seconds))
        self._claim(self.claims[-1], keep=not lost)

    @action(4, when=lambda m: not m.claimable(), **CLAIM)
    def claim_in_vain(self, **arguments: Any) -> None:
        """A run claims though nothing can be there."""
        self.claim(**arguments)

    @action(3, when=lambda m: m.model.held())
    def workers_die(self) -> None:
        """Every lease runs out."""
        self.advance(self.model.now + timedelta(seconds=290))

    @action(3, when=Machine.claimable, times=st.sampled_from([4, 1]))
    def poison(self, times: int) -> None:
        """Workers with a single job die, one after the other."""
        for _ in range(times):
            self.claim(run=len(self.runs), most=1, seconds=240, lost=True)
            self.workers_die()

    @action(3, when=lambda m: m.claims, number=one(lambda m: range(len(m.claims))))
    def claim_again(self, number: int) -> None:
        """A claim is repeated, now or long after."""
        self._claim(self.claims[number], keep=True)

    def _claim(self, claim: Claim, keep: bool) -> None:
        run, state = self.runs[claim.run], self.model.runs[claim.run]
        if state.finished:
            with refused("409", "run_finished"):
                run.answer(claim.most, claim.id, p_run_seconds=claim.seconds)
            self.reached["claim refused"] += 1
            return
        expected = self.model.claim(state, claim.id, claim.most, claim.seconds)
        answer = run.answer(claim.most, claim.id, p_run_seconds=claim.seconds)
        fence = f"{state.prefix}{claim.id}"
        self._check_claim(answer, expected, fence)
        if keep:
            new = [Handle(job.id, fence) for job in expected.jobs]
            self.handles += [handle for handle in new if handle not in self.handles]

    def _check_claim(self, answer: dict[str, Any], expected: Answer, fence: str) -> None:
        self.reached.update(f"rescue {code}" for code in expected.rescued)
        if expected.closed:
            self.check_nothing(answer, expected)
            self.reached[f"claim {answer['reason']}"] += 1
            return
        for job, told in zip(answer["jobs"], expected.jobs, strict=True):
            assert handed_out(told).items() <= job.items()
            self.reached["claim suspect" if told.suspect else "claim job"] += 1
        made = any(job.made for job in self.model.jobs.values())
        assert (answer["fence"], answer["latencySeconds"]) == (fence, LATENCY if made else None)

    @action(2, when=Machine.all_jobs, most=st.integers(1, 6))
    def peek(self, most: int) -> None:
        """Somebody looks what a new run would be given."""
        expected, answer = self.model.peek(most), self.queue.call("peek_generation_jobs", p_max_jobs=most)
        assert [job["id"] for job in answer["jobs"]] == [job.id for job in expected.jobs]
        assert [job["images"] for job in answer["jobs"]] == [len(job.missing) for job in expected.jobs]
        if expected.closed:
            self.check_nothing(answer, expected)

    @staticmethod
    def check_nothing(answer: dict[str, Any], expected: Answer) -> None:
        """An answer without jobs has the expected reason and wait."""
        assert expected.closed
        assert (answer["jobs"], answer["reason"]) == ([], expected.closed.reason)
        wait = expected.closed.seconds
        assert answer["nextAttemptInSeconds"] == (wait and pytest.approx(wait, abs=0.001))

    @action(
        3, when=Machine.all_runs, run=one(Machine.all_runs), spent=st.sets(st.integers(1, 12), max_size=12)
    )
    def finish(self, run: int, spent: set[int]) -> None:
        """A run ends, once or repeatedly, whatever it holds."""
        released = self.model.finish(self.model.runs[run], sorted(spent))
        assert self.runs[run].finish(*sorted(spent)) == released
        self.reached["finish releases" if released else "finish"] += 1

    @action(1, when=Machine.all_runs, run=one(Machine.all_runs), **TAKE)
    def take_starts_anyhow(self, **arguments: Any) -> None:
        """A run asks the gate for starts, before its first claim or after its end perhaps."""
        self.take_starts(**arguments)

    @action(5, when=Machine.under_way, run=one(Machine.under_way), **TAKE)
    def take_starts(self, run: int, slots: int, within: float | None) -> None:
        """A run asks the gate for starts."""
        state, now = self.model.runs[run], self.model.now
        parameters = {"p_run_id": state.id, "p_model": MODEL, "p_slots": slots, "p_within_seconds": within}
        if state.ends_by is None or state.finished:
            with refused("409", "run_finished"):
                self.queue.call("take_start_slots", **parameters)
            return
        state.hear(now)
        self.model.gate = self.model.gate.aged(now)
        latest = now + timedelta(seconds=HORIZON if within is None else min(HORIZON, within))
        starts, closed, turn = self.model.gate.take(now, state.id, slots, min(latest, state.ends_by))
        answer = self.queue.call("take_start_slots", **parameters)
        told = [now + timedelta(seconds=offset) for offset in answer["slots"]]
        assert (told, answer["reason"] or "") == (starts, closed.reason)
        assert answer["epoch"] == self.model.gate.epoch
        assert answer["nextInSeconds"] == (closed.seconds and pytest.approx(closed.seconds, abs=0.001))
        asks_again = min((turn - now).total_seconds(), 80)
        assert answer["askAgainInSeconds"] == pytest.approx(asks_again, abs=0.001)
        self.starts += told
        self.reached[f"take {closed.reason or 'starts'}"] += 1
