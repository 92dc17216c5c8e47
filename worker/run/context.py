"""The context of one run: its services and the state that its parts share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

from worker import log
from worker.common.retry_delay import Uniform
from worker.gemini.client import Gemini
from worker.gemini.models import price_note
from worker.jobs import GeneratedImage, Job
from worker.photos.memory import RunPhotos
from worker.run.deadlines import Deadlines
from worker.run.in_flight import JobsInFlight
from worker.run.rate_limiter import RateLimiter
from worker.run.request import RunRequest
from worker.run.stop import Stop
from worker.run.summary import Summary
from worker.settings import Settings
from worker.supabase.database_time import DatabaseTime
from worker.supabase.queue import Queue
from worker.supabase.storage import PhotoStore
from worker.supabase.storage_proof import StorageProof

SHUTDOWN_SECONDS = 8.0
"""Cloud Run sends SIGKILL 10 s after SIGTERM (Cloud Run, "Container runtime contract")."""


@dataclass(frozen=True, slots=True)
class Services:
    """Services that all runs of a worker share. `open_photos` takes the allowed buckets and hosts."""

    queue: Queue
    gemini: Gemini
    store: PhotoStore
    proof: StorageProof
    open_photos: Callable[[Sequence[str], Sequence[str]], RunPhotos]
    monotonic: Callable[[], float]
    uniform: Uniform


class RunContext:
    """One run: its services, deadlines, rate limiter, jobs, stop state and summary.

    `photos`, `prices` (dollars per image, by model) and `database_time` are set by the first claim.
    `claim_unanswered` means that the database may have assigned jobs that this run does not know of,
    `queue_ran_dry` that the last claim got fewer jobs than it asked for.
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
            services.queue,
            self.id,
            self.model,
            settings.images_at_a_time,
            self.deadlines,
            self.stop,
            services.monotonic,
        )
        self.jobs = JobsInFlight(settings.jobs_at_a_time, settings.images_at_a_time, services.monotonic)
        self.summary = Summary(str(self.id), settings.worker_id, self.model, self.stop)
        self.database_time = DatabaseTime(services.monotonic)
        self.photos: RunPhotos | None = None
        self.prices: Mapping[str, float] = {}
        self.logged_problems: set[str] = set()
        self.claim_unanswered = False
        self.queue_ran_dry = False

    def request_shutdown(self) -> None:
        """Stop claiming and starting requests, and respond within SHUTDOWN_SECONDS."""
        self.stop.abort("shutdown")
        self.deadlines.shorten(SHUTDOWN_SECONDS)

    def use_model(self, model: str) -> None:
        """Use another model from now on."""
        if model != self.model:
            self.model = self.summary.model = model
            self.limiter.use(model)

    def follow(self, successors: Sequence[str]) -> None:
        """Use the recorded successor of the model, or the configured fallback of the default model."""
        own, fallback = self.settings.gemini_model_name, self.settings.gemini_model_fallback
        if successors and self.settings.gemini_model_follows:
            own_fallback = fallback if self.model == own and fallback not in successors else None
            self.use_model(own_fallback or successors[-1])

    def count_answer(self, job: Job, asked: str, image: GeneratedImage) -> None:
        """Count an image under the model that made it, and the extra images in its answer.

        Logs once per run if another model answered than the one asked.
        """
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
