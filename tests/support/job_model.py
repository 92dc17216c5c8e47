"""One job and one batch in plain Python: what results, dead workers and operators make of them."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import NamedTuple

from tests.support.gate_model import next_daily_reset

FINAL = ("completed", "failed", "cancelled")


class Ending(NamedTuple):
    """A job's result as a worker reports it."""

    outcome: str
    spent: bool = True
    retry_seconds: float = 0
    until_reset: bool = False
    code: str = "told"


class Result(NamedTuple):
    """One result for settle."""

    job: int
    fence: str
    ending: Ending

    def request(self) -> dict[str, object]:
        """As settle wants it."""
        return {
            "jobId": self.job,
            "fence": self.fence,
            "outcome": self.ending.outcome,
            "code": self.ending.code,
            "message": "So it was.",
            "retryInSeconds": self.ending.retry_seconds,
            "untilDailyReset": self.ending.until_reset,
            "attemptSpent": self.ending.spent,
        }


@dataclass(eq=False)
class Job:
    """A row of the queue with its images."""

    id: int
    batch_id: str
    user: str
    images: int
    priority: int
    tag: int
    max_attempts: int
    created: datetime
    status: str = "pending"
    attempts: int = 0
    crashes: int = 0
    suspect: bool = False
    claims: int = 0
    retry_at: datetime | None = None
    fence: str | None = None
    locked_at: datetime | None = None
    lease_ends: datetime | None = None
    started: datetime | None = None
    code: str | None = None
    made: dict[int, str] = field(default_factory=dict)
    given_up: dict[int, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[int]:
        """The images neither made nor given up."""
        return [i for i in range(self.images) if i not in self.made and i not in self.given_up]

    @property
    def ready(self) -> bool:
        """Whether a claim may hand it out."""
        return self.status == "pending" and self.retry_at is None

    @property
    def turn(self) -> tuple[int, int, int]:
        """Its place among what is ready."""
        return -self.priority, self.tag, self.id

    def lease(self, fence: str, now: datetime, run_seconds: float) -> None:
        """A run has claimed it."""
        self.status, self.fence, self.attempts = "processing", fence, self.attempts + 1
        self.locked_at, self.started, self.claims = now, self.started or now, self.claims + 1
        self.lease_ends = now + timedelta(seconds=min(run_seconds + 15, 290))

    def free(self, status: str) -> None:
        """Remove its lock."""
        self.status, self.fence, self.locked_at = status, None, None

    def lease_expired(self, alone: bool) -> str:
        """Its worker is dead: the attempt is given back, a crash alone is its own; what becomes of it."""
        self.code = "lease_expired"
        if self.missing and alone and self.crashes >= 2:
            self.code = "crashed"
        elif self.missing and self.attempts - 1 >= self.max_attempts:
            self.code = "attempts_exhausted"
        self.crashes, self.suspect = self.crashes + alone, True
        self.attempts = max(self.attempts - 1, 0)
        self.free("pending" if self.code == "lease_expired" else "failed")
        return self.code

    def settle(self, ending: Ending, now: datetime, max_age_hours: float) -> str:
        """Its worker reports the result; returns the verdict."""
        verdict = self._verdict(ending, now, max_age_hours)
        self.code = {
            "completed": "some_images_refused" if self.given_up else None,
            "refused": next((self.given_up[i] for i in sorted(self.given_up)), None),
            "too_old": "too_old",
        }.get(verdict, ending.code)
        self.retry_at = None
        if verdict == "rate_limited" or (verdict == "pending" and ending.outcome != "released"):
            to_reset = verdict == "rate_limited" and ending.until_reset
            begin = next_daily_reset(now) if to_reset else now
            self.retry_at = begin + timedelta(seconds=ending.retry_seconds)
        self.attempts -= 0 if ending.spent or not self.attempts else 1
        self.suspect = self.suspect and not ending.spent
        self.free("failed" if verdict in ("refused", "too_old", "exhausted") else verdict)
        return verdict

    def _verdict(self, ending: Ending, now: datetime, max_age_hours: float) -> str:
        if not self.missing:
            return "completed" if self.made else "refused"
        if ending.outcome == "failed":
            return "failed"
        old = self.created < now - timedelta(hours=ceil(max_age_hours))
        if old and (ending.outcome == "rate_limited" or not (ending.spent or ending.outcome == "released")):
            return "too_old"
        if ending.outcome == "rate_limited":
            return "rate_limited"
        return "exhausted" if ending.spent and self.attempts >= self.max_attempts else "pending"

    def retry(self) -> None:
        """An operator takes it up again."""
        self.status, self.attempts, self.crashes, self.suspect, self.code = "pending", 0, 0, False, None

    def record(self, index: int, path: str) -> tuple[str, str | None]:
        """An image of it has been stored; the result, and the path that counts."""
        if index in self.made:
            return "already_recorded", self.made[index]
        if self.status in FINAL:
            return "job_final", None
        self.given_up.pop(index, None)
        self.made[index] = path
        return "recorded", path

    def refuse(self, index: int, code: str) -> str:
        """An image of it will never be made; the result."""
        if self.status in FINAL:
            return "job_final"
        if index not in self.missing:
            return "already_recorded"
        self.given_up[index] = code
        return "recorded"


@dataclass(eq=False)
class Batch:
    """A batch; its status and counters follow from its jobs."""

    id: str
    user: str
    jobs: list[Job] = field(default_factory=list)

    @property
    def status(self) -> str:
        """The status its jobs give it."""
        states = {job.status for job in self.jobs}
        if "cancelled" in states:
            return "cancelled"
        if not states <= set(FINAL):
            return "generating"
        if all(len(job.made) == job.images for job in self.jobs):
            return "completed"
        return "partial" if any(job.made for job in self.jobs) else "failed"

    @property
    def counters(self) -> tuple[int, ...]:
        """Jobs total, done and failed; images total, done and failed."""
        states = [job.status for job in self.jobs]
        lacking = [
            job.images - len(job.made) if job.status == "failed" else len(job.given_up) for job in self.jobs
        ]
        jobs = (len(states), states.count("completed"), states.count("failed"))
        images = (sum(job.images for job in self.jobs), sum(len(job.made) for job in self.jobs))
        return (*jobs, *images, sum(lacking))
