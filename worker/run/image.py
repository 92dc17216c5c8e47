"""One image: place and slot → generate → store → record. Returns the outcome as a value."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from worker import log
from worker.errors import (
    GenerationError,
    Misconfigured,
    PhotoUnprocessed,
    QueueUnavailable,
    RateLimited,
    Refused,
    Transient,
)
from worker.gemini.client import GenerationRequest
from worker.jobs import GeneratedImage, Job
from worker.run.context import RunContext
from worker.run.outcome import ImageOutcome, NotStarted
from worker.supabase.storage import object_path, photo_row

STORE_SECONDS = 15.0
"""Timeout of storing a received image: a 5 MB upload, with retries."""

LONGEST_RETRY_SECONDS = 2.0
"""Longest wait between the two tries of a request; after a longer server delay a later run retries."""


@dataclass(slots=True)
class Image:
    """An image to make, and its progress: whether a request was `sent` and an image was `paid` for.

    `job_ended` is shared by all images of the job and is set when one of them finds that the job is final.
    `place` is the image's place among those in progress, from the request until it is stored and recorded.
    """

    job: Job
    index: int
    request: GenerationRequest
    job_ended: asyncio.Event
    sent: bool = False
    paid: bool = False
    place: AsyncExitStack = field(default_factory=AsyncExitStack)


async def make_image(context: RunContext, image: Image) -> ImageOutcome:
    """Make the image and return its outcome, which includes expected failures."""
    async with image.place:
        try:
            outcome = await _generate_and_save(context, image)
        except NotStarted as exc:
            outcome = ImageOutcome("notStarted", reason=exc.reason)
        except GenerationError as error:
            outcome = _failed(context, image, error)
    if outcome.job_final:
        image.job_ended.set()
        context.limiter.look_again()
    return outcome


async def _generate_and_save(context: RunContext, image: Image) -> ImageOutcome:
    try:
        generated = await _generate(context, image)
    except Refused as refused:
        return await _record_refusal(context, image, refused)
    except TimeoutError:  # the run's deadline
        return _cut(context, image)
    image.paid = True
    context.count_answer(image.job, image.request.model, generated)
    return await _save(context, image, generated)


async def _generate(context: RunContext, image: Image) -> GeneratedImage:
    """Request the image, and retry once after a transient error if there is time."""
    try:
        return await _request(context, image)
    except Transient as first:
        if _is_last(context, first):
            raise
        wait_seconds = context.services.uniform(0.0, LONGEST_RETRY_SECONDS)
        log.event("image_retried", image=image.index, code=first.code, wait_seconds=round(wait_seconds, 2))
        await context.stop.sleep(wait_seconds)
        try:
            return await _request(context, image)
        except NotStarted:
            raise first from None
        except PhotoUnprocessed as second:
            if isinstance(first, PhotoUnprocessed):
                raise second.as_bad_input() from second
            raise


def _is_last(context: RunContext, error: Transient) -> bool:
    """Whether a retry would wait too long or start too late for this run."""
    asked = error.retry_after_seconds or 0.0
    return asked > LONGEST_RETRY_SECONDS or context.stop.paused or context.deadlines.start.passed


async def _request(context: RunContext, image: Image) -> GeneratedImage:
    """Wait for a place and a slot, and send one request. Raises TimeoutError at the run's deadline."""
    gemini = context.services.gemini
    gemini.prepare()  # before taking a slot, which would expire during the SDK's import
    await image.place.aclose()  # a retry waits for its turn like any other request
    start = context.limiter.start(image.job.user_folder, context.deadlines.start, image.job_ended)
    epoch = await image.place.enter_async_context(start)
    image.sent = True
    context.jobs.count_requests(image.job.id)
    try:
        async with context.deadlines.generate.timeout():
            return await gemini.generate(image.request, context.settings.call_timeout_seconds)
    except RateLimited as error:
        await context.limiter.report(error.facts, epoch)
        raise


async def _save(context: RunContext, image: Image, generated: GeneratedImage) -> ImageOutcome:
    """Store an image and record it.

    If recording fails, a later claim recovers the stored image. If storing fails, the failure is recorded
    in the database for all workers.
    """
    services, deadlines = context.services, context.deadlines
    path = object_path(image.job, image.index, generated.data)
    try:
        await services.store.put(path, generated, deadlines.save.within(STORE_SECONDS))
    except GenerationError as error:
        await services.proof.refuse(generated, error, not deadlines.save.passed, deadlines.report)
        raise
    return await record(context, image.job, image.index, path, photo_row(path, generated))


async def record(
    context: RunContext, job: Job, index: int, path: str, photo: Mapping[str, Any], adopted: bool = False
) -> ImageOutcome:
    """Record a stored image. If the database rejects it, remove the object, which nothing else uses."""
    services, deadline = context.services, context.deadlines.save
    answer = await services.queue.record_photo(job, index, photo, deadline)
    if answer.result == "recorded" or answer.storage_path == path:
        log.event("image_made", image=index, adopted=adopted)
        return ImageOutcome("adopted") if adopted else ImageOutcome("made", sent=True)
    try:
        await services.store.remove(path, deadline)
    except GenerationError as error:  # the image is still discarded; a sweep removes the orphaned object
        log.event("object_left", level="warning", image=index, code=error.code, reason=error.message)
    log.event("image_discarded", image=index, reason=answer.result)
    return ImageOutcome("discarded", sent=True, job_final=answer.result == "job_final")


async def _record_refusal(context: RunContext, image: Image, refused: Refused) -> ImageOutcome:
    """Record that an image will never be made."""
    answer = await context.services.queue.record_failed_image(
        image.job, image.index, refused.code, refused.message, context.deadlines.save
    )
    log.event("image_refused", image=image.index, code=refused.code)
    if answer.result == "job_final":
        return ImageOutcome("discarded", sent=True, job_final=True)
    return ImageOutcome("refused", sent=True)


def _cut(context: RunContext, image: Image) -> ImageOutcome:
    log.event("image_erred", level="warning", image=image.index, code="cut", paid=False)
    too_short = context.deadlines.seconds_for_requests < context.settings.two_requests_seconds
    return ImageOutcome("cut", sent=True, attempt_spent=too_short)


def _failed(context: RunContext, image: Image, error: GenerationError) -> ImageOutcome:
    outcome = error_outcome(context, error, image.sent, image.paid)
    if outcome.error:
        if image.paid or isinstance(error, Misconfigured):
            # Start no request that would fail, or whose image could not be stored.
            context.stop.pause()
        level = "error" if isinstance(error, Misconfigured) else "warning"
        log.event("image_erred", level=level, image=image.index, code=error.code, paid=image.paid)
    return outcome


def error_outcome(
    context: RunContext, error: GenerationError, sent: bool = False, paid: bool = False
) -> ImageOutcome:
    """The outcome of an image after an error. Without a request, it was not tried if the run was stopped."""
    if not sent and context.stop.paused and isinstance(error, Transient | QueueUnavailable):
        return ImageOutcome("notStarted", reason="stopped")
    return ImageOutcome("erred", error, sent=sent, paid=paid)
