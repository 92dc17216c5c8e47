"""One job: adopt what is stored, fetch the photos, then make every missing image at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from worker.errors import BadInput, GenerationError, Transient
from worker.gemini import GenerationRequest
from worker.image_task import ImageTask, RunState
from worker.job import Job, Photo
from worker.outcome import ImageDiscarded, ImageErred, ImageNotStarted, ImageOutcome, NotStartedReason
from worker.photos import sendable
from worker.prompt import build_prompt


class HeldPhotos(Protocol):
    """Photos that memory is reserved for; raises BadInput, Transient or Misconfigured."""

    async def fetch(self, reference: str) -> Photo: ...


class Photos(Protocol):
    """Where source photos come from: waits for memory, and holds it while the context is open."""

    def hold(
        self, references: Sequence[str], user_folder: str
    ) -> AbstractAsyncContextManager[HeldPhotos]: ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Makes the images of one job at a time; any number of them may run at once."""

    photos: Photos
    state: RunState

    async def work(self, job: Job) -> Sequence[ImageOutcome]:
        """Make the job's missing images; returns one outcome for each."""
        missing = set(job.missing)
        outcomes: list[ImageOutcome] = []
        try:
            if job.claimed_before:
                outcomes = await self.state.keeper.adopt(job)
                missing -= {o.index for o in outcomes}
        except GenerationError as error:
            return [self._not_begun(index, error) for index in sorted(missing)]
        if not missing or any(isinstance(o, ImageDiscarded) and o.job_final for o in outcomes):
            return outcomes
        return [*outcomes, *await self._make(job, sorted(missing))]

    async def _make(self, job: Job, missing: Sequence[int]) -> Sequence[ImageOutcome]:
        """Fetch the photos, once there is memory for them, and make the images."""
        async with AsyncExitStack() as held:
            try:
                with self.state.waiting(job):
                    async with self.state.budget.until("generate"):
                        reserved = await held.enter_async_context(
                            self.photos.hold(job.photo_references, job.user_folder)
                        )
                        photos = await _photos(job, reserved)
            except TimeoutError:  # of the run: a photo that is late by itself is Transient
                reason: NotStartedReason = "stopped" if self.state.slots.closed else "budget"
                return [ImageNotStarted(index, reason) for index in missing]
            except GenerationError as error:
                return [self._not_begun(index, error) for index in missing]
            request = GenerationRequest(self.state.model, build_prompt(job), photos, job.aspect_ratio)
            ended = asyncio.Event()
            tasks = [ImageTask(self.state, job, index, request, ended).run() for index in missing]
            # All of them, even if one fails unexpectedly: its neighbours may have been paid for.
            results = await asyncio.gather(*tasks, return_exceptions=True)
        return [_outcome(result) for result in results]

    def _not_begun(self, index: int, error: GenerationError) -> ImageOutcome:
        if self.state.not_tried(error):
            return ImageNotStarted(index, "stopped")
        return ImageErred(index, error)


async def _photos(job: Job, reserved: HeldPhotos) -> tuple[Photo, ...]:
    """Every photo of the job; the first that fails ends the wait for the others."""
    places = range(len(job.photo_references))
    fetches = [asyncio.create_task(_photo(job, place, reserved)) for place in places]
    try:
        return sendable(tuple(await asyncio.gather(*fetches)))
    finally:
        for fetch in fetches:
            fetch.cancel()


async def _photo(job: Job, place: int, reserved: HeldPhotos) -> Photo:
    """One photo; its errors say which of the order's photos it is, for the person who ordered."""
    which = f"Training photo {place}" if place else "Example photo"
    try:
        return await reserved.fetch(job.photo_references[place])
    except BadInput as error:
        raise BadInput(error.code, f"{which}: {error.message}") from error
    except Transient as error:
        raise Transient(error.code, f"{which}: {error.message}", error.retry_after_seconds) from error


def _outcome(result: ImageOutcome | BaseException) -> ImageOutcome:
    if isinstance(result, BaseException):
        raise result
    return result
