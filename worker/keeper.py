"""Keeping what was made: images are stored, then recorded, and what is not wanted is removed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from worker import log
from worker.budget import Budget
from worker.errors import GenerationError, Refused
from worker.job import GeneratedImage, Job
from worker.outcome import ImageDiscarded, ImageErred, ImageMade, ImageOutcome
from worker.queue import Recorded
from worker.settings import STORE_SECONDS
from worker.storage import StoredImage, object_path, photo_row
from worker.storage_proof import StorageProof
from worker.tries import Within


class Store(Protocol):
    """Where images are kept."""

    async def put(self, path: str, image: GeneratedImage, within: Within) -> None: ...

    async def remove(self, path: str, within: Within) -> None: ...

    async def stored(self, job: Job, within: Within) -> dict[int, StoredImage]: ...


class Recorder(Protocol):
    """Where images are recorded."""

    async def record_photo(
        self, job: Job, index: int, photo: Mapping[str, Any], within: Within
    ) -> Recorded: ...

    async def record_failed_image(
        self, job: Job, index: int, code: str, message: str, within: Within
    ) -> Recorded: ...


@dataclass(frozen=True, slots=True)
class Keeper:
    """Stores and records the images of one run, by its save deadline; looks for old ones until `generate`."""

    store: Store
    recorder: Recorder
    proof: StorageProof
    budget: Budget

    async def keep(self, job: Job, index: int, image: GeneratedImage) -> ImageOutcome:
        """Store an image and record it. Raises Misconfigured and QueueUnavailable; what is stored by then is
        adopted later, and of what was not stored all workers know."""
        path = object_path(job, index, image.data)
        try:
            await self.store.put(path, image, self.budget.until("save", STORE_SECONDS))
        except GenerationError as error:
            await self.proof.refuse(image, error, self.budget)
            raise
        return await self.record(job, index, path, photo_row(path, image))

    async def adopt(self, job: Job) -> list[ImageOutcome]:
        """Record what an earlier claim stored and could not record; nothing is paid for twice."""
        stored = await self.store.stored(job, self.budget.until("generate"))
        return [
            await self.record(job, index, stored[index].path, stored[index].photo, adopted=True)
            for index in job.missing
            if index in stored
        ]

    async def record(
        self, job: Job, index: int, path: str, photo: Mapping[str, Any], adopted: bool = False
    ) -> ImageOutcome:
        """Record a stored image; if it is refused, remove the object, which is ours alone."""
        answer = await self.recorder.record_photo(job, index, photo, self.budget.until("save"))
        if answer.result == "recorded" or answer.storage_path == path:
            log.event("image_made", image=index, adopted=adopted)
            return ImageMade(index, adopted)
        try:
            await self.store.remove(path, self.budget.until("save"))
        except GenerationError as error:  # the image is refused all the same; its object is left behind
            log.event("object_left", level="warning", image=index, code=error.code, reason=error.message)
        log.event("image_discarded", image=index, reason=answer.result)
        return ImageDiscarded(index, job_final=answer.result == "job_final")

    async def give_up(self, job: Job, index: int, refused: Refused) -> ImageOutcome:
        """Record that an image will never be made. Raises QueueUnavailable."""
        answer = await self.recorder.record_failed_image(
            job, index, refused.code, refused.message, self.budget.until("save")
        )
        log.event("image_refused", image=index, code=refused.code)
        if answer.result == "job_final":
            return ImageDiscarded(index, job_final=True)
        return ImageErred(index, refused, sent=True)
