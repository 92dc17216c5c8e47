"""The sweep: removes orphaned objects (stored, but without a row) and empties the folders of erased users.

Limited in time and jobs; the next sweep does the rest. Never removes an object that has a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker import log
from worker.errors import GenerationError, Misconfigured, QueueUnavailable
from worker.supabase.folders import Folders, StoredObject
from worker.supabase.queue import Queue
from worker.supabase.storage import OBJECT_NAME

SWEEP_SECONDS = 60.0
"""The longest sweep. The database does not hand out a retried job for three times as long
(sql/functions/76_sweep.sql), so that even a removal that timed out here has ended by then."""

SWEEP_JOBS = 500
CHUNK_JOBS = 20
"""Jobs per call. If a sweep dies, these are blocked for other sweeps for three minutes."""

LISTINGS_AT_A_TIME = 8
CALL_SECONDS = 20.0
SETTLE_SECONDS = 5.0
"""Reserved at the end for recording the swept jobs in the database."""


@dataclass(slots=True)
class Swept:
    """What a sweep did; `more` says that there is more to sweep."""

    jobs: int = 0
    objects: int = 0
    size_bytes: int = 0
    erasures: int = 0
    failures: int = 0
    more: bool = False

    def as_json(self) -> dict[str, Any]:
        """The sweep's JSON."""
        return {
            "jobsSwept": self.jobs,
            "objectsRemoved": self.objects,
            "bytesRemoved": self.size_bytes,
            "erasuresDone": self.erasures,
            "failures": self.failures,
            "more": self.more,
        }


class Sweep:
    """One sweep of at most `seconds`. Use each object once. Setting `stopping` ends it early and safely."""

    def __init__(
        self,
        queue: Queue,
        folders: Folders,
        monotonic: Callable[[], float],
        seconds: float,
        stopping: asyncio.Event,
    ) -> None:
        self._queue = queue
        self._folders = folders
        self._monotonic = monotonic
        self._stopping = stopping
        self._began = monotonic()
        self._settle_by = self._began + seconds
        self._work_until = self._settle_by - min(SETTLE_SECONDS, seconds / 2)
        self._until = self._work_until
        self._done = Swept()
        self._problem: Misconfigured | None = None
        self._places = asyncio.Semaphore(LISTINGS_AT_A_TIME)

    async def run(self, limit: int) -> dict[str, Any]:
        """Sweep up to `limit` jobs, erased users first. Raises QueueUnavailable and Misconfigured."""
        # Erased users may have many objects. They get half of the time, so that the jobs are swept as well.
        self._until = (self._began + self._work_until) / 2
        await self._sweep_erasures()
        self._until = self._work_until
        await self._sweep_jobs(limit)
        return self._report()

    async def empty(self, folder: str) -> dict[str, Any]:
        """Empty the folder of one erased user now, as far as the time allows."""
        await self._erase(folder)
        return self._report()

    def _report(self) -> dict[str, Any]:
        report = self._done.as_json()
        log.event("swept", **report)
        return report

    async def _sweep_jobs(self, limit: int) -> None:
        left = limit
        while left > 0 and not self._is_over():
            params = {"p_limit": min(left, CHUNK_JOBS)}
            jobs = (await self._call("generation_jobs_to_sweep", params))["jobs"]
            if not jobs:
                return
            left -= len(jobs)
            await self._sweep_chunk(jobs)
        self._done.more = True

    async def _sweep_chunk(self, jobs: Sequence[Mapping[str, Any]]) -> None:
        ends = await asyncio.gather(*(self._sweep_job(job) for job in jobs))
        swept = [job["id"] for job, is_swept in zip(jobs, ends, strict=True) if is_swept]
        if swept:
            answer = await self._call(
                "settle_swept_generation_jobs", {"p_job_ids": swept}, until=self._settle_by
            )
            self._done.jobs += answer["swept"]
        if self._problem is not None:
            raise self._problem

    async def _sweep_job(self, job: Mapping[str, Any]) -> bool:
        """Remove a job's orphaned objects; returns whether that succeeded."""
        recorded = frozenset(job["recorded"])
        async with self._places:
            try:
                found = await self._listed(job["folder"])
                strays = [each for each in found if _is_stray(each.path, job["folder"], recorded)]
                await self._remove(strays)
            except GenerationError as error:
                self._failed(error, job=job["id"])
                return False
        if strays:
            log.event("strays_removed", job=job["id"], objects=len(strays))
        return True

    async def _listed(self, folder: str) -> list[StoredObject]:
        """All objects of a folder. Reads all pages before any removal, which would shift the next page."""
        found: list[StoredObject] = []
        offset: int | None = 0
        while offset is not None:
            page = await self._folders.page(folder, offset, self._remaining())
            found += page.objects
            offset = page.next_offset
        return found

    async def _sweep_erasures(self) -> None:
        for folder in (await self._call("generation_erasures_to_sweep", {"p_limit": 10}))["folders"]:
            if self._is_over():
                self._done.more = True
                return
            await self._erase(folder)

    async def _erase(self, folder: str) -> None:
        try:
            is_empty = await self._clear(folder)
        except QueueUnavailable as error:
            self._failed(error)
            return
        params = {"p_user_folder": folder, "p_empty": is_empty}
        answer = await self._call("settle_generation_erasure", params, until=self._settle_by)
        self._done.erasures += bool(answer["done"])

    async def _clear(self, folder: str) -> bool:
        """Remove all objects below a folder; returns whether it was empty at the last listing."""
        while True:
            page = await self._folders.page(folder, 0, self._remaining())
            if not page.objects and not page.folders:
                return True
            before = self._done.objects
            await self._remove(page.objects)
            for inner in page.folders:
                await self._clear(inner)
            if self._done.objects == before:
                return False  # the listed objects cannot be removed

    async def _remove(self, objects: Sequence[StoredObject]) -> None:
        if objects:
            removed = await self._folders.remove(objects, self._remaining())
            self._done.objects += len(removed)
            self._done.size_bytes += sum(each.size_bytes for each in removed)

    def _failed(self, error: GenerationError, job: int | None = None) -> None:
        """Leave the rest to the next sweep; count a failure unless the time was up."""
        self._done.more = True
        if isinstance(error, Misconfigured):
            self._problem = error
        if self._is_over():
            return
        self._done.failures += 1
        log.event("sweep_failed", level="warning", code=error.code, reason=error.message, job=job)

    async def _call(
        self, function: str, params: Mapping[str, Any], until: float | None = None
    ) -> Mapping[str, Any]:
        return await self._queue.rpc(function, params, self._remaining(until))

    def _is_over(self) -> bool:
        return self._stopping.is_set() or self._monotonic() >= self._until

    def _remaining(self, until: float | None = None) -> float:
        """Seconds that a call may take. Raises QueueUnavailable if none are left."""
        seconds = (self._until if until is None else until) - self._monotonic()
        if seconds <= 0:
            raise QueueUnavailable("timeout", "the sweep's time is up")
        return min(seconds, CALL_SECONDS)


def _is_stray(path: str, folder: str, recorded: frozenset[str]) -> bool:
    """Whether an object is in the job's own folder, has a worker's kind of name, and has no row."""
    inside, _, name = path.rpartition("/")
    return inside == folder and path not in recorded and OBJECT_NAME.fullmatch(name) is not None
