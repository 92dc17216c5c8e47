"""Fetches all photos of one job at once, within a limit of processor time; errors name the photo's role."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from worker.errors import BadInput, Transient
from worker.jobs import Photo
from worker.photos.memory import HeldPhotos

PHOTOS_CPU_SECONDS = 60
"""Processor time for decoding all photos of a job, far more than 14 usual ones take. One user's jobs then
cannot occupy a decoder for whole runs."""


async def fetch_photos(references: Sequence[str], held: HeldPhotos) -> tuple[Photo, ...]:
    """Fetch every photo, the example first. Raises the first error, which cancels the others."""
    ready: dict[int, Photo] = {}

    async def fetch(place: int) -> None:
        ready[place] = await _fetch_photo(references, place, held)
        _check_processor_time(ready)

    fetches = [asyncio.create_task(fetch(place)) for place in range(len(references))]
    try:
        await asyncio.gather(*fetches)
    finally:
        for each in fetches:
            each.cancel()
    return tuple(ready[place] for place in range(len(references)))


async def _fetch_photo(references: Sequence[str], place: int, held: HeldPhotos) -> Photo:
    """Fetch one photo. Error messages name its role and number in the order, for the customer."""
    role = _role(place)
    try:
        return await held.fetch(references[place])
    except BadInput as error:
        raise BadInput(error.code, f"{role}: {error.message}") from error
    except Transient as error:
        raise type(error)(error.code, f"{role}: {error.message}", error.retry_after_seconds) from error


def _check_processor_time(ready: Mapping[int, Photo]) -> None:
    """Raise BadInput, which names the slowest photo, if the photos took too much processor time together."""
    different = {id(photo): photo for photo in ready.values()}  # one may be both example and training photo
    if sum(photo.cpu_seconds for photo in different.values()) <= PHOTOS_CPU_SECONDS:
        return
    slowest = max(ready, key=lambda place: ready[place].cpu_seconds)
    seconds = ready[slowest].cpu_seconds
    message = f"takes {seconds:.1f} s to decode, and all photos together more than {PHOTOS_CPU_SECONDS} s"
    raise BadInput("photo_too_large", f"{_role(slowest)}: {message}: make it smaller")


def _role(place: int) -> str:
    """The role and number of a photo in its order."""
    return f"Training photo {place}" if place else "Example photo"
