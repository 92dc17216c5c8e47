"""The jobs that a run has started but not settled: which occupy a place, which wait, which have ended."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager

from worker import log
from worker.common.deadline import Deadline
from worker.jobs import Job
from worker.run.outcome import JobEnd

PATIENCE_SECONDS = 1.0
"""How long a job keeps its place while it waits for photos or memory."""

MANY_WAITING = 3
"""From so many waiting jobs on, as a multiple of the run's places, it claims few at a time, and none of a
user who has one that waits. So it takes many users to reach MOST_JOBS."""

MOST_JOBS = 10
"""Limit of all jobs of a run, as a multiple of its places; it bounds their memory."""


class JobsInFlight:
    """The jobs of one run; `len` is their number. One task at a time may wait for a change.

    `places` is how many jobs a run processes concurrently. A job that waits for its photos, or for its user's
    share of memory, gives up its place after PATIENCE_SECONDS, so that other users' jobs can be claimed. A
    user with half as many such jobs as there are places gets no more until one of them continues or ends;
    once many jobs wait, neither does a user with any. A user with more than `most_unsent` unsent images, half
    of the `images` that a run makes concurrently, gets no more either: these do not count, so that the run
    claims jobs of other users meanwhile.

    `requests` counts the requests sent for each job that is not settled, by job id.
    """

    def __init__(self, places: int, images: int, monotonic: Callable[[], float]) -> None:
        self.places = places
        self.most_unsent = images // 2
        self.requests: Counter[int] = Counter()
        self._monotonic = monotonic
        self._jobs: dict[asyncio.Task[JobEnd], Job] = {}
        self._waits: defaultdict[int, list[float]] = defaultdict(list)
        self._change = asyncio.Event()

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, job: Job, work: Coroutine[None, None, JobEnd]) -> None:
        """Start processing a job."""
        log.event("job_claimed", job=job.id, batch=job.batch_id, attempt=job.attempt, images=len(job.missing))
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._change.set())
        self._jobs[task] = job

    def take_ended(self) -> list[JobEnd]:
        """Remove and return the jobs that have ended."""
        ended = {task: task.result() for task in self._jobs if task.done()}
        for task in ended:
            del self._jobs[task]
        return list(ended.values())

    def abandon(self) -> None:
        """Cancel all jobs without waiting for them; finishing the run releases them."""
        for task, job in self._jobs.items():
            task.cancel()
            log.event("job_abandoned", level="error", job=job.id, batch=job.batch_id)

    async def wait_for_change(self, deadline: Deadline) -> None:
        """Wait for a change since the last call, at most until the deadline."""
        try:
            async with deadline.timeout():
                await self._change.wait()
        except TimeoutError:
            return
        self._change.clear()

    def count_requests(self, job_id: int, requests: int = 1) -> None:
        """Count requests sent for a job, and extra images in an answer, which are billed like requests."""
        self.requests[job_id] += requests
        self._change.set()

    @contextmanager
    def waiting(self, job: Job) -> Iterator[None]:
        """Mark a job, or an image of it, as waiting for its photos or its user's share of memory."""
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
        """The jobs that have waited so long that they no longer occupy a place."""
        return [job for job in self._jobs.values() if self._waits_long(job)]

    def free_places(self) -> int:
        """How many more jobs the run could process."""
        free = self.places - len(self._jobs) + len(self.waiting_jobs())
        return min(free, MOST_JOBS * self.places - len(self._jobs))

    def claimable_jobs(self) -> int:
        """How many jobs a claim should take: as many as there are free places, unless many jobs wait."""
        return min(self.free_places(), max(self.places // 4, 1)) if self._many_wait() else self.free_places()

    def users_at_limit(self) -> Sequence[str]:
        """The users of whom no more jobs should be claimed now: enough of their jobs or images wait."""
        waiting = Counter(job.user_id for job in self.waiting_jobs())
        most = 1 if self._many_wait() else self.places / 2
        crowded = {user for user, jobs in waiting.items() if jobs >= most}
        return sorted(
            crowded | {user for user, images in self._unsent().items() if images > self.most_unsent}
        )

    def unsent_images(self) -> int:
        """How many images have no request sent yet, not counting those of users at their limit."""
        return sum(images for images in self._unsent().values() if images <= self.most_unsent)

    def _unsent(self) -> Counter[str]:
        """The images without a request by user, not counting jobs without a place."""
        unsent: Counter[str] = Counter()
        for job in self._jobs.values():
            if not self._waits_long(job):
                unsent[job.user_id] += max(len(job.missing) - self.requests[job.id], 0)
        return unsent

    def _many_wait(self) -> bool:
        return len(self.waiting_jobs()) >= MANY_WAITING * self.places

    def _waits_long(self, job: Job) -> bool:
        since = min(self._waits.get(job.id, ()), default=math.inf)
        return since <= self._monotonic() - PATIENCE_SECONDS
