"""One job: recover images stored by an earlier claim, fetch the photos, make the missing images, decide."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import AsyncExitStack

from worker import log
from worker.errors import GenerationError
from worker.gemini.client import GenerationRequest
from worker.gemini.prompt import build_prompt
from worker.jobs import Job, Photo
from worker.photos.job_photos import fetch_photos
from worker.photos.memory import RunPhotos
from worker.run.context import RunContext
from worker.run.image import Image, make_image, record
from worker.run.outcome import (
    ImageDiscarded,
    ImageErred,
    ImageNotStarted,
    ImageOutcome,
    JobEnd,
    NotStartedReason,
    Retry,
    decide,
)


class _PhotosNotReady(Exception):
    """The photos of a job were not ready at the run's end, although the job had its fair time."""


async def process_job(context: RunContext, job: Job, photos: RunPhotos) -> JobEnd:
    """Process a job. An unexpected error becomes a retry, limited by the job's maximum attempts."""
    with log.bound(job=job.id, batch=job.batch_id):
        try:
            images = await _make_missing(context, job, photos)
        except Exception:  # noqa: BLE001 - the only place that catches unknown errors
            log.event("job_crashed", level="error", exc_info=True)
            outcome = Retry("internal", "Unexpected error; see the traceback in the worker's log.")
            return JobEnd(job, (), outcome)
        return JobEnd(job, images, decide(images))


async def _make_missing(context: RunContext, job: Job, photos: RunPhotos) -> Sequence[ImageOutcome]:
    """One outcome for each missing image."""
    recovered: Sequence[ImageOutcome] = ()
    missing = sorted(job.missing)
    async with AsyncExitStack() as held:
        try:
            if job.claimed_before:
                recovered = await _recover_stored(context, job)
                missing = sorted(set(missing) - {image.index for image in recovered})
            if not missing or any(isinstance(o, ImageDiscarded) and o.job_final for o in recovered):
                return recovered
            fetched = await _fetch_photos(context, job, photos, held)
        except (TimeoutError, _PhotosNotReady) as late:
            # The run's deadline; the timeout of a single photo is Transient.
            reason = _reason(context, late)
            return [*recovered, *(ImageNotStarted(index, reason) for index in missing)]
        except GenerationError as error:
            return [*recovered, *(_not_begun(context, index, error) for index in missing)]
        log.event(
            "photos_ready",
            photos=len(fetched),
            bytes=sum(photo.original_bytes for photo in fetched),
            sent_bytes=sum(photo.size for photo in fetched),
        )
        return [*recovered, *await _make_images(context, job, missing, fetched)]


async def _recover_stored(context: RunContext, job: Job) -> Sequence[ImageOutcome]:
    """Record images that an earlier claim stored but did not record, so that nothing is paid for twice."""
    stored = await context.services.store.stored(job, context.deadlines.generate)
    return [
        await record(context, job, index, stored[index].path, stored[index].photo, adopted=True)
        for index in job.missing
        if index in stored
    ]


async def _fetch_photos(
    context: RunContext, job: Job, photos: RunPhotos, held: AsyncExitStack
) -> tuple[Photo, ...]:
    """Wait for memory, which `held` then keeps reserved, and fetch every photo of the job.

    At the run's deadline raises TimeoutError, or _PhotosNotReady if the job has held the memory for its fair
    time, so that it cannot take the memory again in the next run before others had theirs.
    """
    monotonic = context.services.monotonic
    fair_until = math.inf
    try:
        with context.jobs.waiting(job):
            async with context.deadlines.generate.timeout():
                memory = photos.hold(job.photo_references, job.user_folder)
                reserved = await held.enter_async_context(memory)
                fair_until = monotonic() + context.deadlines.fair_seconds
                return await fetch_photos(job.photo_references, reserved)
    except TimeoutError as late:
        if monotonic() < fair_until:
            raise
        raise _PhotosNotReady from late


def _reason(context: RunContext, late: TimeoutError | _PhotosNotReady) -> NotStartedReason:
    if context.stop.paused:
        return "stopped"
    return "photos_not_ready" if isinstance(late, _PhotosNotReady) else "budget"


async def _make_images(
    context: RunContext, job: Job, missing: Sequence[int], photos: tuple[Photo, ...]
) -> Sequence[ImageOutcome]:
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


def _not_begun(context: RunContext, index: int, error: GenerationError) -> ImageOutcome:
    if context.not_tried(error):
        return ImageNotStarted(index, "stopped")
    return ImageErred(index, error)
