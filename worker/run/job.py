"""One job: recover images stored by an earlier claim, fetch the photos, make the missing images, decide."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from worker import log
from worker.errors import BadInput, GenerationError, Transient
from worker.gemini.client import GenerationRequest
from worker.gemini.prompt import build_prompt
from worker.jobs import Job, Photo
from worker.photos.memory import HeldPhotos, RunPhotos
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

PHOTOS_CPU_SECONDS = 60
"""Processor time for decoding all photos of a job, far more than 14 usual ones take. One user's jobs then
cannot occupy a decoder for whole runs."""


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
                return await _fetch_all(job, reserved)
    except TimeoutError as late:
        if monotonic() < fair_until:
            raise
        raise _PhotosNotReady from late


async def _fetch_all(job: Job, reserved: HeldPhotos) -> tuple[Photo, ...]:
    """Fetch every photo of the job. Raises the first error, which cancels the others."""
    ready: dict[int, Photo] = {}

    async def fetch(place: int) -> None:
        ready[place] = await _fetch_photo(job, place, reserved)
        _check_processor_time(ready)

    places = range(len(job.photo_references))
    fetches = [asyncio.create_task(fetch(place)) for place in places]
    try:
        await asyncio.gather(*fetches)
    finally:
        for each in fetches:
            each.cancel()
    return tuple(ready[place] for place in places)


def _check_processor_time(ready: Mapping[int, Photo]) -> None:
    """Raise BadInput, which names the slowest photo, if the photos took too much processor time together."""
    different = {id(photo): photo for photo in ready.values()}  # one may be both example and training photo
    if sum(photo.cpu_seconds for photo in different.values()) <= PHOTOS_CPU_SECONDS:
        return
    slowest = max(ready, key=lambda place: ready[place].cpu_seconds)
    seconds = ready[slowest].cpu_seconds
    said = f"takes {seconds:.1f} s to decode, and all photos together more than {PHOTOS_CPU_SECONDS} s"
    raise BadInput("photo_too_large", f"{_name(slowest)}: {said}: make it smaller")


async def _fetch_photo(job: Job, place: int, reserved: HeldPhotos) -> Photo:
    """Fetch one photo. Error messages name its role and number in the order, for the customer."""
    which = _name(place)
    try:
        return await reserved.fetch(job.photo_references[place])
    except BadInput as error:
        raise BadInput(error.code, f"{which}: {error.message}") from error
    except Transient as error:
        raise type(error)(error.code, f"{which}: {error.message}", error.retry_after_seconds) from error


def _name(place: int) -> str:
    """The role and number of a photo in its order."""
    return f"Training photo {place}" if place else "Example photo"


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
