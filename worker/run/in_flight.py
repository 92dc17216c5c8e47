"""The jobs that a run has started and not settled: who takes a place, who only waits, what has ended."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager

from worker import log
from worker.deadline import Deadline
from worker.jobs import Job
from worker.run.outcome import JobEnd

PATIENCE_SECONDS = 1.0
"""How long a job may wait for its photos, or for memory for them, before its place goes to others."""

MOST_WAITING = 3
"""How many times the places of a run may be held by jobs that wait so and take none."""


class JobsInFlight:
    """The jobs of one run; its length is their number. One task at a time may wait for a change.

    `places` is how many jobs a run works on at a time. A job that waits for its photos, or for its user's
    share of the memory for them, takes no place, so it does not keep other users' jobs from being claimed.
    A user with half as many such jobs as there are places gets no more until one has ended.

    `requests` counts those that were sent for jobs that are not settled, by the job's id.
    """

    def __init__(self, places: int, monotonic: Callable[[], float]) -> None:
        self.places = places
        self.requests: Counter[int] = Counter()
        self._monotonic = monotonic
        self._jobs: dict[asyncio.Task[JobEnd], Job] = {}
        self._waits: defaultdict[int, list[float]] = defaultdict(list)
        self._change = asyncio.Event()

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, job: Job, work: Coroutine[None, None, JobEnd]) -> None:
        """Begin to work on a job."""
        log.event("job_claimed", job=job.id, batch=job.batch_id, attempt=job.attempt, images=len(job.missing))
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._change.set())
        self._jobs[task] = job

    def take_ended(self) -> list[JobEnd]:
        """The jobs that have ended; they are in flight no longer."""
        ended = {task: task.result() for task in self._jobs if task.done()}
        for task in ended:
            del self._jobs[task]
        return list(ended.values())

    def abandon(self) -> None:
        """Stop what is still under way, without waiting for it; finishing the run gives the jobs back."""
        for task, job in self._jobs.items():
            task.cancel()
            log.event("job_abandoned", level="error", job=job.id, batch=job.batch_id)

    async def wait_for_change(self, deadline: Deadline) -> None:
        """Wait until something has changed since the last time, at most until the deadline."""
        try:
            async with deadline.timeout():
                await self._change.wait()
        except TimeoutError:
            return
        self._change.clear()

    def count_requests(self, job_id: int, requests: int = 1) -> None:
        """Count requests that have been sent for a job, and images that an answer had beyond one."""
        self.requests[job_id] += requests
        self._change.set()

    @contextmanager
    def waiting(self, job: Job) -> Iterator[None]:
        """Note that a job, or an image of it, waits for its photos or its user's share of memory."""
        since = self._monotonic()
        self._waits[job.id].append(since)
        patience = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._change.set)
        try:
            yield
        finally:
            patience.cancel()
            self._waits[job.id].remove(since)
            if not self._waits[job.id]:
                del self._waits[job.id]
            self._change.set()

    def waiting_jobs(self) -> Sequence[Job]:
        """The jobs that have waited for so long that they take no place any more."""
        return [job for job in self._jobs.values() if self._waits_long(job)]

    def free_places(self) -> int:
        """How many jobs more the run could work on."""
        waiting = min(len(self.waiting_jobs()), MOST_WAITING * self.places)
        return self.places - len(self._jobs) + waiting

    def users_at_limit(self) -> Sequence[str]:
        """The users of whom nothing more should be claimed now: enough of their jobs wait."""
        waiting = Counter(job.user_id for job in self.waiting_jobs())
        return [user for user, jobs in waiting.items() if 2 * jobs >= self.places]

    def unsent_images(self) -> int:
        """How many images no request has been sent for, but for those of jobs that take no place."""
        jobs = [job for job in self._jobs.values() if not self._waits_long(job)]
        return sum(max(len(job.missing) - self.requests[job.id], 0) for job in jobs)

    def _waits_long(self, job: Job) -> bool:
        since = min(self._waits.get(job.id, ()), default=math.inf)
        return since <= self._monotonic() - PATIENCE_SECONDS
