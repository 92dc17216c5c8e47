"""A model of the whole queue in plain Python: what the model-based test expects of every function.

It is written from the contracts above the functions and keeps no counters: those follow from the jobs.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from tests.support.gate_model import HORIZON, LONG_AGO, Closed, Facts, Gate
from tests.support.job_model import FINAL, Batch, Ending, Job, Result


@dataclass(eq=False)
class RunState:
    """A run; registered with its first claim that gave something, or with its end."""

    worker: str
    id: UUID
    ends_by: datetime | None = None
    heard_at: datetime = LONG_AGO
    finished: bool = False
    rescued: bool = False
    claims: list[UUID] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """The beginning of its claims' fences."""
        return f"{self.worker}/{self.id}/"

    def hear(self, now: datetime) -> None:
        """It is alive; recorded at most every ten seconds."""
        if self.heard_at < now - timedelta(seconds=10):
            self.heard_at = now

    def until(self, now: datetime) -> datetime | None:
        """Until when it counts as active if nothing more is heard of it; None if it does not."""
        if not self.ends_by or self.finished:
            return None
        until = min(self.ends_by, self.heard_at + timedelta(seconds=90))
        return until if until > now else None


class Answer(NamedTuple):
    """A claim's answer: jobs, or why there are none and when to come back; and what it rescued."""

    jobs: list[Job]
    closed: Closed | None = None
    rescued: Sequence[str] = ()


class QueueModel:
    """The queue, its gate and its runs at one time, `now`."""

    def __init__(self, now: datetime, gate: Gate) -> None:
        self.now, self.gate = now, gate
        self.jobs: dict[int, Job] = {}
        self.batches: dict[str, Batch] = {}
        self.runs: list[RunState] = []
        self.flows: dict[tuple[str, int], int] = {}
        self.retries: dict[tuple[str, int], int] = {}
        self.max_runs, self.max_age_hours = 1000, 72

    def virtual_time(self, priority: int) -> int:
        """The turn at which a new user joins."""
        ready = [job.tag for job in self.ready() if job.priority == priority]
        tags = [tag for (_, of), tag in self.flows.items() if of == priority]
        return min(ready) if ready else max(tags, default=0)

    def order(self, batch_id: str, user: str, ids: list[int], images: int, priority: int, most: int) -> None:
        """Jobs are ordered, in an existing batch or a new one."""
        batch = self.batches.setdefault(batch_id, Batch(batch_id, user))
        tag = max(self.flows.get((user, priority), 0), self.virtual_time(priority))
        for job_id in ids:
            tag += images
            job = Job(job_id, batch_id, user, images, priority, tag, most, self.now)
            self.jobs[job_id] = job
            batch.jobs.append(job)
        self.flows[user, priority] = tag

    def ready(self) -> list[Job]:
        """The jobs that can be given out, in order."""
        return sorted((job for job in self.jobs.values() if job.ready), key=lambda job: job.turn)

    def held(self, prefix: str = "") -> list[Job]:
        """The jobs in progress under fences that begin so, in order."""
        held = (j for j in self.jobs.values() if j.fence is not None and j.fence.startswith(prefix))
        return sorted(held, key=lambda job: job.turn)

    def next_change(self) -> datetime | None:
        """When a retry is due or a lease runs out."""
        times = [job.retry_at for job in self.jobs.values() if job.retry_at and job.status not in FINAL]
        times += [job.lease_ends for job in self.held() if job.lease_ends]
        return min(times, default=None)

    def next_attempt(self) -> float | None:
        """The seconds until then."""
        due = self.next_change()
        return None if due is None else max((due - self.now).total_seconds(), 0)

    def open_runs(self) -> list[datetime]:
        """Until when each active run counts as such."""
        return [until for run in self.runs if (until := run.until(self.now))]

    def claim(self, run: RunState, claim: UUID, most: int, seconds: float) -> Answer:
        """A claim of a run that has not been finished."""
        fence = f"{run.prefix}{claim}"
        rescued: Sequence[str] = ()
        if run.ends_by:
            run.hear(self.now)
        if not self.held(fence) and claim not in run.claims:
            gate = self.gate.aged(self.now)
            closed = self._claim_closed(run, gate, seconds)
            if closed:
                return Answer([], closed)
            rescued = self.come_back()
            chosen = self.choose(run, most, gate.starts_within(self.now, min(seconds, HORIZON)))
            if not chosen:
                return Answer([], self._nothing(run), rescued)
            run.ends_by = run.ends_by or self.now + timedelta(seconds=seconds)
            run.hear(self.now)
            run.claims.append(claim)
            for job in chosen:
                job.lease(fence, self.now, seconds)
        return Answer(self.held(fence), None, rescued)

    def _claim_closed(self, run: RunState, gate: Gate, seconds: float) -> Closed | None:
        under_way = self.open_runs()
        if run.ends_by is None and len(under_way) >= self.max_runs:
            return Closed("too_many_runs", (min(under_way) - self.now).total_seconds())
        return gate.closed(self.now, min(seconds, 30))

    def come_back(self) -> list[str]:
        """Expired leases are rescued, then what is due becomes ready; what became of the rescued."""
        expired = [job for job in self.held() if job.lease_ends and job.lease_ends <= self.now]
        dead = [self._run_of(job) for job in expired]
        # Whoever comes back later than another one of the same run was not alone either.
        alone = [len(self.held(run.prefix)) == 1 and not run.rescued for run in dead]
        ends = [job.lease_expired(is_alone) for job, is_alone in zip(expired, alone, strict=True)]
        for run in dead:
            run.rescued = True
        waiting = [j for j in self.jobs.values() if j.retry_at and j.status in ("pending", "rate_limited")]
        due = [job for job in waiting if job.retry_at and job.retry_at <= self.now]
        self.take_turns(due)
        for job in due:
            job.status, job.retry_at = "pending", None
        return ends

    def take_turns(self, jobs: list[Job]) -> None:
        """Returning jobs join their user's line, not their former place; a job that had a turn pays again."""
        times = {job.priority: self.virtual_time(job.priority) for job in jobs}
        lines: dict[tuple[str, int], list[Job]] = {}
        for job in sorted(jobs, key=lambda job: (job.tag, job.id)):
            lines.setdefault((job.user, job.priority), []).append(job)
        for key, line in lines.items():
            end = max(self.retries.get(key, 0), times[key[1]])
            for job in line:
                end += len(job.missing)
                job.tag = max(job.tag, end)
            cost = sum(len(job.missing) for job in line if job.status != "rate_limited")
            self.retries[key] = max(job.tag for job in line)
            self.flows[key] = max(self.flows[key] + cost, self.retries[key])

    def _run_of(self, job: Job) -> RunState:
        return next(run for run in self.runs if job.fence and job.fence.startswith(run.prefix))

    def choose(self, run: RunState, most: int, starts: float) -> list[Job]:
        """The jobs of a run's claim: a suspect alone, or as many as the gate can start."""
        ready, held = self.ready(), self.held(run.prefix)
        if any(job.suspect for job in held):
            return []
        if ready and not held and ready[0].suspect:
            return ready[:1]
        chosen: list[Job] = []
        for job in [job for job in ready if not job.suspect][:most]:
            if sum(other.images for other in chosen) < max(starts, 1):
                chosen.append(job)
        return chosen

    def _nothing(self, run: RunState) -> Closed:
        if not self.ready():
            return Closed("queue_empty", self.next_attempt())
        return Closed("isolated", 0) if self.held(run.prefix) else Closed("busy", 1)

    def peek(self, most: int) -> Answer:
        """What a new run's claim would give if nothing held it back."""
        copy, stranger = deepcopy(self), RunState("peek", UUID(int=0))
        copy.come_back()
        chosen = copy.choose(stranger, most, 1_000_000)
        if chosen:
            return Answer(chosen)
        closed = copy._nothing(stranger)
        # Nothing has come back yet: a job that will fail then is still waited for.
        return Answer(
            [], closed._replace(seconds=self.next_attempt()) if closed.reason == "queue_empty" else closed
        )

    def hear(self, fence: str | None) -> None:
        """The run that holds a job under this fence is alive."""
        for run in self.runs:
            if fence and fence.startswith(run.prefix) and run.ends_by and not run.finished:
                run.hear(self.now)

    def settle(self, results: list[Result]) -> list[tuple[str, str | None, str]]:
        """The result, the new status and the verdict for each."""
        owned = [self.jobs[result.job].fence == result.fence for result in results]
        told: list[tuple[str, str | None, str]] = []
        for result, ours in zip(results, owned, strict=True):
            job = self.jobs[result.job]
            verdict = job.settle(result.ending, self.now, self.max_age_hours) if ours else "lease_lost"
            if ours:
                self.hear(result.fence)
            told.append(("settled", job.status, verdict) if ours else ("lease_lost", None, verdict))
        return told

    def finish(self, run: RunState, spent: list[int]) -> int:
        """A run ends; returns how many jobs it still held."""
        held = self.held(run.prefix)
        for job in held:
            ending = Ending("released", job.id in spent, code="released")
            job.settle(ending, self.now, self.max_age_hours)
        run.ends_by, run.finished = run.ends_by or self.now, True
        self.gate.line.pop(run.id, None)
        return len(held)

    def release(self, older_than_seconds: float) -> int:
        """Locks older than that are taken off; how many."""
        before = self.now - timedelta(seconds=older_than_seconds)
        stale = [job for job in self.held() if job.locked_at and job.locked_at < before]
        for job in stale:
            job.free("pending")
        return len(stale)

    def retry_failed(self, batch_id: str | None, including_refused: bool, most: int) -> list[int]:
        """Failed jobs are taken up again; which."""
        failed = [
            job
            for job in sorted(self.jobs.values(), key=lambda job: job.id)
            if job.status == "failed" and batch_id in (None, job.batch_id)
            if self.batches[job.batch_id].status != "cancelled" and (including_refused or job.missing)
        ][:most]
        if including_refused:
            for job in failed:
                job.given_up.clear()
        self.take_turns(failed)
        for job in failed:
            job.retry()
        return [job.id for job in failed]

    def cancel(self, batch_id: str) -> int:
        """Ends what has not ended of a batch; how many jobs."""
        unfinished = [job for job in self.batches[batch_id].jobs if job.status not in FINAL]
        for job in unfinished:
            job.free("cancelled")
            job.retry_at = None
        return len(unfinished)

    def pause(self) -> None:
        """Nothing starts any more; what was given out is void."""
        self.gate.epoch += 0 if self.gate.paused else 1
        self.gate.paused = True

    def resume(self) -> None:
        """Work continues: no pause, no block, and jobs that wait for a quota are due."""
        self.gate.paused = False
        if self.gate.blocked_until and self.gate.blocked_until > self.now:
            self.gate.blocked_until, self.gate.epoch = None, self.gate.epoch + 1
        for job in self.jobs.values():
            if job.status == "rate_limited" and job.retry_at:
                job.retry_at = min(job.retry_at, self.now)

    def report(self, facts: Facts, epoch: int | None) -> tuple[datetime, datetime] | None:
        """A 429 of an epoch; within which times the gate is now blocked, None if that has not changed."""
        if epoch not in (None, self.gate.epoch):
            return None
        self.gate = self.gate.aged(self.now)
        return self.gate.learn(facts, self.now)
