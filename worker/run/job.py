"""One job: recover images stored by an earlier claim, fetch the photos, make the missing images, decide."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from worker import log
from worker.errors import GenerationError
from worker.gemini.client import GenerationRequest
from worker.gemini.prompt import build_prompt
from worker.jobs import Job, Photo
from worker.photos.job_photos import fetch_photos
from worker.photos.memory import RunPhotos
from worker.run.context import RunContext
from worker.run.image import Image, error_outcome, make_image, record
from worker.run.outcome import ImageOutcome, JobEnd, JobOutcome, NotStarted, decide


async def process_job(context: RunContext, job: Job, photos: RunPhotos) -> JobEnd:
    """Process a job. An unexpected error becomes a retry, limited by the job's maximum attempts."""
    with log.bound(job=job.id, batch=job.batch_id):
        try:
            images = await _make_missing(context, job, photos)
        except Exception:  # noqa: BLE001 - the only place that catches unknown errors
            log.event("job_crashed", level="error", exc_info=True)
            message = "Unexpected error; see the traceback in the worker's log."
            return JobEnd(job, (), JobOutcome("retry", "internal", message))
        return JobEnd(job, images, decide(images))


async def _make_missing(context: RunContext, job: Job, photos: RunPhotos) -> Sequence[ImageOutcome]:
    """One outcome for each missing image."""
    recovered: Mapping[int, ImageOutcome] = {}
    missing = sorted(job.missing)
    async with AsyncExitStack() as held:
        try:
            if job.claimed_before:
                recovered = await _recover_stored(context, job)
                missing = [index for index in missing if index not in recovered]
            if not missing or any(image.job_final for image in recovered.values()):
                return [*recovered.values()]
            fetched = await _fetch_photos(context, job, photos, held)
        except NotStarted as exc:
            outcome = ImageOutcome("notStarted", reason=exc.reason)
        except GenerationError as error:
            outcome = error_outcome(context, error)
        else:
            return [*recovered.values(), *await _make_images(context, job, missing, fetched)]
    return [*recovered.values(), *[outcome] * len(missing)]


async def _recover_stored(context: RunContext, job: Job) -> Mapping[int, ImageOutcome]:
    """Record images that an earlier claim stored but did not record, so that nothing is paid for twice."""
    stored = await context.services.store.stored(job, context.deadlines.generate)
    return {
        index: await record(context, job, index, image.path, image.photo, adopted=True)
        for index, image in stored.items()
    }


async def _fetch_photos(
    context: RunContext, job: Job, photos: RunPhotos, held: AsyncExitStack
) -> tuple[Photo, ...]:
    """Wait for memory, which `held` then keeps reserved, and fetch every photo of the job.

    Raises NotStarted at the run's deadline, or when the job has held the memory for its fair time and other
    users wait for it. Such a job comes back in its user's next turn, and behind others for the memory.
    """
    monotonic = context.services.monotonic
    fair_until = math.inf
    try:
        with context.jobs.waiting(job):
            async with context.deadlines.generate.timeout():
                memory = photos.hold(job.photo_references, job.user_folder)
                reserved = await held.enter_async_context(memory)
                fair_seconds = context.deadlines.fair_seconds
                fair_until = monotonic() + fair_seconds
                async with reserved.giving_way(fair_seconds):
                    return await fetch_photos(job.photo_references, reserved)
    except TimeoutError as late:  # not that of a single photo, which is Transient
        if context.stop.paused:
            raise NotStarted("stopped") from late
        raise NotStarted("budget" if monotonic() < fair_until else "photos_not_ready") from late


async def _make_images(
    context: RunContext, job: Job, missing: Sequence[int], photos: tuple[Photo, ...]
) -> Sequence[ImageOutcome]:
    log.event(
        "photos_ready",
        photos=len(photos),
        bytes=sum(photo.original_bytes for photo in photos),
        sent_bytes=sum(photo.size for photo in photos),
    )
    request = GenerationRequest(context.model, build_prompt(job), photos, job.aspect_ratio)
    job_ended = asyncio.Event()
    images = [make_image(context, Image(job, index, request, job_ended)) for index in missing]
    # Wait for all, even if one fails unexpectedly: the others may have been paid for.
    outcomes = await asyncio.gather(*images, return_exceptions=True)
    return [_outcome(outcome) for outcome in outcomes]


def _outcome(outcome: ImageOutcome | BaseException) -> ImageOutcome:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
