"""The jobs that a run has under way: started, waited for, settled as they end, abandoned when time is up."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence

from worker import log
from worker.image_task import RunState
from worker.job import Job
from worker.outcome import Retry, decide
from worker.pipeline import Pipeline
from worker.settle import JobEnd, Settler

LOOK_SECONDS = 0.1
"""How long is waited at a time, so that images that have started, and a deadline that has been drawn nearer,
are noticed."""

PHOTO_PATIENCE_SECONDS = 1.0
"""How long a job may wait for its photos, or for memory to send them, before its place goes to others."""

MOST_AWAITING = 3
"""How many times the places of a run may be held by jobs that wait so and take none."""


class ActiveJobs:
    """The jobs of one run that have not been settled; its length is their number.

    `places` is how many a run works on at a time. A job that waits for what each user has a share of – its
    photos, memory for them, memory to send them – takes no place, so that it keeps nobody's jobs from being
    claimed; a user who has half as many such jobs as there are places gets no more until one has ended.
    """

    def __init__(self, state: RunState, settler: Settler, places: int) -> None:
        self._state = state
        self._settler = settler
        self._places = places
        self._jobs: dict[asyncio.Task[JobEnd], Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def awaiting(self) -> Sequence[Job]:
        """The jobs that have waited for so long that they take no place any more."""
        return [job for job in self._jobs.values() if self._awaits(job)]

    def free_places(self) -> int:
        """How many jobs more the run could work on."""
        awaiting = min(len(self.awaiting()), MOST_AWAITING * self._places)
        return self._places - len(self._jobs) + awaiting

    def crowding_users(self) -> Sequence[str]:
        """The users of whom nothing more should be claimed now: enough of their jobs wait."""
        awaiting = Counter(job.user_id for job in self.awaiting())
        return [user for user, jobs in awaiting.items() if 2 * jobs >= self._places]

    def unsent_images(self) -> int:
        """How many images no request has been sent for, but for those of jobs that take no place."""
        sent = self._state.sent
        jobs = [job for job in self._jobs.values() if not self._awaits(job)]
        return sum(max(len(job.missing) - sent[job.id], 0) for job in jobs)

    def start(self, pipeline: Pipeline, job: Job) -> None:
        """Begin to work on a job."""
        log.event("job_claimed", job=job.id, batch=job.batch_id, attempt=job.attempt, images=len(job.missing))
        self._jobs[asyncio.create_task(_work(pipeline, job))] = job

    async def settle_next(self) -> Sequence[JobEnd]:
        """Wait a moment for jobs to end, settle all that have ended by then in one call, and return them."""
        budget = self._state.budget
        done, _ = await asyncio.wait(
            self._jobs,
            timeout=min(budget.remaining(budget.settle), LOOK_SECONDS),
            return_when=asyncio.FIRST_COMPLETED,
        )
        ends = [task.result() for task in done]
        for task in done:
            del self._jobs[task]
        if ends:
            await self._settler.settle(ends)
        return ends

    def _awaits(self, job: Job) -> bool:
        began = min(self._state.waits.get(job.id, ()), default=math.inf)
        return began <= self._state.monotonic() - PHOTO_PATIENCE_SECONDS

    def abandon(self) -> None:
        """Stop what is still under way, without waiting for it; finishing the run gives the jobs back."""
        for task, job in self._jobs.items():
            task.cancel()
            log.event("job_abandoned", level="error", job=job.id, batch=job.batch_id)


async def _work(pipeline: Pipeline, job: Job) -> JobEnd:
    """The job boundary: whatever is unexpected becomes a retry, bounded by the job's attempts."""
    with log.bound(job=job.id, batch=job.batch_id):
        try:
            images = await pipeline.work(job)
        except Exception:  # noqa: BLE001 - the one boundary where an unknown error ends
            log.event("job_crashed", level="error", exc_info=True)
            outcome = Retry("internal", "An unexpected error; the worker's log has its traceback.")
            return JobEnd(job, (), outcome)
        return JobEnd(job, images, decide(images))
