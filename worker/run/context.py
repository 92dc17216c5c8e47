"""What one run works with, and what its parts share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID, uuid4

from worker import log
from worker.backoff import Uniform
from worker.deadline import Within
from worker.errors import GenerationError, QueueUnavailable, Transient
from worker.gemini.client import GenerationRequest
from worker.gemini.models import price_note
from worker.jobs import GeneratedImage, Job, Photo
from worker.run.deadlines import Deadlines
from worker.run.in_flight import JobsInFlight
from worker.run.memory import ByteBudget
from worker.run.rate_limiter import RateLimiter
from worker.run.request import RunRequest
from worker.run.stop import Stop
from worker.run.storage_proof import StorageProof
from worker.run.summary import Summary
from worker.settings import Settings
from worker.supabase.database_time import DatabaseTime
from worker.supabase.queue import Claim, Database, Recorded, Settled, Settlement
from worker.supabase.storage import StoredImage

SHUTDOWN_SECONDS = 8.0
"""Cloud Run kills 10 s after SIGTERM (Cloud Run, "Container runtime contract")."""


class Queue(Database, Protocol):
    """The queue in the database; raises QueueUnavailable, Misconfigured and QueueRefused."""

    async def claim(
        self,
        run_id: UUID,
        claim_id: UUID,
        max_jobs: int,
        run_seconds: float,
        model: str,
        within: Within,
        skip_users: Sequence[str] = (),
        max_images: int | None = None,
    ) -> Claim: ...

    async def record_photo(
        self, job: Job, index: int, photo: Mapping[str, Any], within: Within
    ) -> Recorded: ...

    async def record_failed_image(
        self, job: Job, index: int, code: str, message: str, within: Within
    ) -> Recorded: ...

    async def settle(self, settlements: Sequence[Settlement], within: Within) -> dict[int, Settled]: ...

    async def finish(
        self, run_id: UUID, summary: Mapping[str, Any], spent: Sequence[int], within: Within
    ) -> None: ...


class Store(Protocol):
    """Where images are stored; raises Misconfigured and QueueUnavailable."""

    async def put(self, path: str, image: GeneratedImage, within: Within) -> None: ...

    async def remove(self, path: str, within: Within) -> None: ...

    async def stored(self, job: Job, within: Within) -> dict[int, StoredImage]: ...


class Model(Protocol):
    """What makes an image; raises the errors of `worker.gemini.client`. Prepared, a call goes out without
    delay.

    `models` names the models that there are.
    """

    def prepare(self) -> None: ...

    async def generate(self, request: GenerationRequest, timeout_seconds: float) -> GeneratedImage: ...

    async def models(self, timeout_seconds: float) -> frozenset[str]: ...


class HeldPhotos(Protocol):
    """Photos that memory is reserved for; raises BadInput, Transient or Misconfigured."""

    async def fetch(self, reference: str) -> Photo: ...


class Photos(Protocol):
    """The source photos of one run: `hold` waits for memory, and holds it while the context is open."""

    def hold(
        self, references: Sequence[str], user_folder: str
    ) -> AbstractAsyncContextManager[HeldPhotos]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What all runs of a worker share.

    `open_photos` opens a run's photos, given the buckets and hosts that they may come from.
    `request_memory` is for the photos in requests to Gemini.
    """

    queue: Queue
    gemini: Model
    store: Store
    proof: StorageProof
    open_photos: Callable[[Sequence[str], Sequence[str]], Photos]
    request_memory: ByteBudget
    monotonic: Callable[[], float]
    uniform: Uniform


class RunContext:
    """One run: its services, deadlines, pace and jobs, why it stops, and what came of it so far.

    `photos`, `prices` (dollars of an image by model) and `database_time` are known from the first claim on.
    Once `must_finish` is set the database may hold jobs for this run. `queue_ran_dry` says that the last
    claim got fewer jobs than it asked for.
    """

    def __init__(self, settings: Settings, services: Services, request: RunRequest) -> None:
        self.id = uuid4()
        self.settings = settings
        self.services = services
        self.model = settings.gemini_model_name
        self.max_jobs = request.max_jobs or settings.max_jobs
        self.deadlines = Deadlines(
            min(request.budget_seconds or math.inf, settings.invocation_timeout_seconds),
            settings.margin_seconds,
            services.monotonic,
        )
        self.stop = Stop()
        self.limiter = RateLimiter(
            services.queue, self.id, self.model, self.deadlines, self.stop, services.monotonic
        )
        self.jobs = JobsInFlight(settings.jobs_at_a_time, services.monotonic)
        self.image_places = asyncio.Semaphore(settings.images_at_a_time)
        self.summary = Summary(str(self.id), settings.worker_id, self.model, self.stop)
        self.database_time = DatabaseTime(services.monotonic)
        self.photos: Photos | None = None
        self.prices: Mapping[str, float] = {}
        self.must_finish = False
        self.queue_ran_dry = False

    def request_shutdown(self) -> None:
        """Claim and start nothing more, and answer within SHUTDOWN_SECONDS."""
        self.stop.no_more_starts("shutdown")
        self.deadlines.shorten(SHUTDOWN_SECONDS)

    def use_model(self, model: str) -> None:
        """Ask another model from now on."""
        if model != self.model:
            self.model = self.summary.model = model
            self.limiter.use(model)

    def not_tried(self, error: GenerationError) -> bool:
        """Whether what failed before a request was sent counts as no try: the run was stopped meanwhile."""
        return self.stop.nothing_starts and isinstance(error, (Transient, QueueUnavailable))

    def count_answer(self, job: Job, asked: str, image: GeneratedImage) -> None:
        """Count an image at the model that made it, and those beside it; tell of another model once a run."""
        self.jobs.count_requests(job.id, image.extra_images)
        self.summary.extra_images += image.extra_images
        answering = image.usage.model
        if answering == asked:
            return
        if not self.summary.answered_by:
            note = price_note(asked, answering, self.prices)
            log.event(
                "model_answered_by_another", level="warning", model=asked, answered_by=answering, note=note
            )
        self.summary.answered_by[answering] += 1
