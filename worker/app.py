"""The composition root: builds one worker from the settings; its clients are built once, on first use."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from worker import log
from worker.common.fair_budget import FairBudget
from worker.common.retry_delay import Uniform
from worker.errors import GenerationError, QueueUnavailable
from worker.gemini.client import Gemini
from worker.jobs import Photo
from worker.ops.alerts import watched
from worker.ops.health import health
from worker.ops.sweep import SWEEP_JOBS, SWEEP_SECONDS, Sweep
from worker.photos.address import is_url
from worker.photos.download import PhotoDownload
from worker.photos.fetch import ORIGINAL_BYTES, PhotoFetcher
from worker.photos.memory import PHOTO_BYTES, PhotoMemory, RunPhotos
from worker.photos.prepare import PhotoPreparer
from worker.run.context import SHUTDOWN_SECONDS, RunContext, Services
from worker.run.request import Action, RunRequest
from worker.run.run import run
from worker.settings import Settings
from worker.supabase.client import Project
from worker.supabase.folders import Folders
from worker.supabase.queue import Queue
from worker.supabase.signed_urls import Gallery
from worker.supabase.storage import PhotoStore
from worker.supabase.storage_proof import StorageProof

PEEK_JOBS = 10
OVERVIEW_ROWS = 24
DETAILS_PHOTOS = 48
ERASE_SECONDS = 120.0


class Worker:
    """Processes and inspects the queue. Belongs to one event loop; supports several concurrent runs.

    `web` replaces the default downloader of photos.
    """

    def __init__(self, settings: Settings, web: PhotoDownload | None = None) -> None:
        self.settings = settings
        self.project = Project(settings.supabase_url, settings.supabase_service_role_key)
        self.queue = Queue(self.project, settings.worker_id)
        self.store = PhotoStore(self.project)
        self.gemini = Gemini(settings.gemini_api_key.reveal(), time.monotonic)
        self.uniform: Uniform = random.SystemRandom().uniform
        self.stopping = asyncio.Event()
        self._web = web or PhotoDownload(contact=settings.photo_contact)
        self._preparer = PhotoPreparer(settings.photo_max_edge, time.monotonic)
        self._originals = FairBudget(ORIGINAL_BYTES, monotonic=time.monotonic)
        self._memory = PhotoMemory(PHOTO_BYTES, time.monotonic)
        self._services = Services(
            queue=self.queue,
            gemini=self.gemini,
            store=self.store,
            proof=StorageProof(self.store, self.queue),
            open_photos=self._photos,
            monotonic=time.monotonic,
            uniform=self.uniform,
        )
        self._gallery = Gallery(self.store, time.monotonic)
        self._runs: set[RunContext] = set()
        self._stats: asyncio.Task[Mapping[str, Any]] | None = None

    async def warm_up(self) -> None:
        """Load what a first job would wait for: Gemini's SDK and the decoders of photos.

        For a worker that stays; a function that starts for a single answer is faster without. What fails
        here, for example a wrong key, fails again in the first run that needs it, which reports it.
        """
        with suppress(GenerationError, OSError):
            await self._preparer.warm_up()
            self.gemini.prepare()

    async def run(self, request: RunRequest) -> Mapping[str, Any]:
        """Do one run and return its summary. Raises QueueUnavailable if the first claim gets no answer."""
        context = RunContext(self.settings, self._services, request)
        self._runs.add(context)
        if self.stopping.is_set():
            context.request_shutdown()
        try:
            return await run(context)
        finally:
            self._runs.discard(context)

    async def peek(self, max_jobs: int | None) -> Mapping[str, Any]:
        """What a run would claim now: the answer of `peek_generation_jobs`."""
        params = {"p_max_jobs": max_jobs or PEEK_JOBS}
        return await self.queue.rpc("peek_generation_jobs", params, SHUTDOWN_SECONDS)

    async def stats(self) -> Mapping[str, Any]:
        """The queue in numbers, as `generation_queue_stats` answers. Concurrent callers share one query."""
        if self._stats is None or self._stats.done():
            query = self.queue.rpc("generation_queue_stats", {}, SHUTDOWN_SECONDS)
            self._stats = asyncio.create_task(query)
        return await asyncio.shield(self._stats)

    async def overview(self) -> Mapping[str, Any]:
        """The dashboard's data: health, statistics, the latest rows, and photos with signed URLs."""
        stats, latest = await asyncio.gather(
            self.stats(),
            self.queue.rpc("generation_overview", {"p_limit": OVERVIEW_ROWS}),
        )
        urls = await self._gallery.urls([photo["storagePath"] for photo in latest["photos"]])
        photos = [{**photo, "url": urls.get(photo["storagePath"])} for photo in latest["photos"]]
        return {
            "health": health(stats).as_json(),
            "stats": stats,
            **latest,
            "photos": photos,
        }

    async def details(self, batch_id: str) -> Mapping[str, Any]:
        """A batch with its jobs and images, the first 48 with signed URLs. Raises QueueRefused."""
        details = await self.queue.rpc("generation_details", {"p_id": batch_id})
        images = [image for job in details["jobs"] for image in job["images"]]
        paths = [image["storagePath"] for image in images if image["storagePath"]]
        urls = await self._gallery.urls(paths[:DETAILS_PHOTOS])
        for image in images:
            image["url"] = urls.get(image["storagePath"])
        return details

    async def photo(self, reference: str) -> Photo:
        """A source photo as Gemini would get it, for the user whose folder a `bucket/path` is in.

        Raises the errors of fetching a photo.
        """
        allowed = await self.queue.rpc("generation_schema_version", {})
        fetcher = self._fetcher(allowed["photoBuckets"], allowed["photoHosts"])
        folder = "" if is_url(reference) else reference.partition("/")[2].partition("/")[0]
        return await fetcher.fetch(reference, folder)

    async def act(self, action: Action) -> Mapping[str, Any]:
        """Perform an operator action. Raises QueueRefused if the batch does not exist."""
        return await self.queue.rpc(action.function, action.params)

    async def sweep(self, max_jobs: int | None) -> Mapping[str, Any]:
        """Remove orphaned objects from Storage. Raises QueueUnavailable and Misconfigured.

        Also logs the state of the queue: not in each run, so that an idle run needs only one request.
        """
        done = await self._sweep().run(max_jobs or SWEEP_JOBS)
        with suppress(QueueUnavailable):  # the sweep itself succeeded; the next one logs the state
            due, oldest, share = watched(await self.stats())
            log.event("queue_watched", due_jobs=due, oldest_due_seconds=oldest, cap_share=share)
        return done

    async def erase(self, user_id: str) -> Mapping[str, Any]:
        """Erase a user: all rows in one transaction, and the objects that a first sweep finds."""
        erased = await self.queue.rpc("erase_generation_user", {"p_user_id": user_id}, ERASE_SECONDS)
        folder = erased["userFolder"]
        return {**erased, **(await self._sweep().empty(folder) if folder else {})}

    def stop(self) -> None:
        """Shut down all runs, and every run started later, because the process got SIGTERM."""
        self.stopping.set()
        for context in self._runs:
            context.request_shutdown()

    async def close(self) -> None:
        """Close all connections."""
        await self._web.close()
        await self._preparer.close()
        await self.gemini.close()
        await self.project.close()

    def _sweep(self) -> Sweep:
        # A sweep may last as long as a run: the invocation timeout less the margin.
        run_seconds = self.settings.invocation_timeout_seconds - self.settings.margin_seconds
        seconds = min(SWEEP_SECONDS, run_seconds)
        return Sweep(self.queue, Folders(self.project), time.monotonic, seconds, self.stopping)

    def _photos(self, buckets: Sequence[str], hosts: Sequence[str]) -> RunPhotos:
        return self._memory.open(self._fetcher(buckets, hosts))

    def _fetcher(self, buckets: Sequence[str], hosts: Sequence[str]) -> PhotoFetcher:
        most = self.settings.photo_max_bytes
        return PhotoFetcher(
            self.store,
            self._web,
            self._preparer,
            self._originals,
            buckets,
            hosts,
            max_bytes=most,
            monotonic=time.monotonic,
        )


@dataclass(frozen=True, slots=True)
class Application:
    """A worker and the settings it was built from."""

    settings: Settings
    worker: Worker


_applications: dict[asyncio.AbstractEventLoop, Application] = {}


def application() -> Application:
    """The application of the running event loop, built on first use. Raises InvalidSettings."""
    loop = asyncio.get_running_loop()
    if loop not in _applications:
        log.set_up(os.environ)
        settings = Settings.from_env(os.environ, default_worker_id())
        _applications.clear()
        _applications[loop] = Application(settings, Worker(settings))
    return _applications[loop]


def default_worker_id() -> str:
    """`worker-{timestamp}-{random}`. The only use of the wall clock; the name is never compared."""
    return f"worker-{int(time.time())}-{uuid4().hex[:8]}"
