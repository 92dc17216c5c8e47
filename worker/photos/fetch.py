"""Fetches one source photo from Storage or the web, within limits of bytes, time and concurrency.

Decides by the bytes whether it is a photo, regardless of its name or content type.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from typing import Protocol

from worker.errors import BadInput, Transient
from worker.fair_budget import FairBudget
from worker.image_format import TooManyPixels, inspect
from worker.jobs import Photo
from worker.photos.address import StorageReference, is_url, parse_photo_url, parse_storage_reference
from worker.photos.download import PhotoDownload, too_large
from worker.photos.hosts import AllowedHosts, RunHosts

MAX_PHOTO_BYTES = 7_000_000
"""Gemini's limit for one inline photo (Vertex AI, "Image understanding")."""

MAX_PHOTOS_BYTES = 74_000_000
"""Limit for all photos of one request: 98.7 MB as base64. Since 2026-01-08 Gemini accepts requests of 100 MB,
including base64 (Gemini API, "File input methods"); 14 photos can have 98 MB."""

_WEB_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?<(?:!doctype\s+html|html|head|body|title|script|meta|!--)",
    re.IGNORECASE,
)
_PAGE_BYTES = 2048
"""How many bytes are searched for the start of a web page; 7 MB of spaces would block the event loop for
200 ms."""


def sendable(photos: tuple[Photo, ...]) -> tuple[Photo, ...]:
    """Check the photos of one request, including duplicates; raises BadInput if they are too large."""
    size = sum(len(photo.data) for photo in photos)
    if size > MAX_PHOTOS_BYTES:
        most = f"{MAX_PHOTOS_BYTES / 1e6:g} MB"
        said = f"the photos of this order have {size / 1e6:.1f} MB together; the limit is {most}"
        raise BadInput("photos_too_large", f"{said}: use fewer or smaller photos")
    return photos


class PhotoBucket(Protocol):
    """Reads one object from our Storage, at most `max_bytes`; raises BadInput or Transient."""

    async def download(self, bucket: str, path: str, max_bytes: int) -> bytes: ...


class PhotoFetcher:
    """Fetches the photos of one run by reference: `https://…`, or `bucket/path` in our Storage.

    `buckets` and `hosts` are the allowed sources. At most `max_concurrent` fetches from Storage and as many
    from the web run concurrently, and at most half of each for one user, so that one user's slow hosts or
    large photos do not block others. `timeout_seconds` limits a fetch from Storage, without the wait for its
    place.
    """

    def __init__(
        self,
        storage: PhotoBucket,
        web: PhotoDownload,
        buckets: Collection[str],
        hosts: Collection[str],
        *,
        max_bytes: int = MAX_PHOTO_BYTES,
        timeout_seconds: float = 20.0,
        max_concurrent: int = 16,
    ) -> None:
        self._storage = storage
        self._web = web
        self._buckets = frozenset(buckets)
        self._hosts = RunHosts(AllowedHosts(hosts))
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._storage_places = FairBudget(max_concurrent)
        self._web_places = FairBudget(max_concurrent)

    async def fetch(self, reference: str, user_folder: str) -> Photo:
        """The photo's bytes, with the type read from them; raises BadInput or Transient."""
        if is_url(reference):
            url = parse_photo_url(reference)
            async with self._web_places.hold(user_folder, 1):
                return self._photo(await self._web.get(url, user_folder, self._hosts), url.shown)
        stored = parse_storage_reference(reference, user_folder, self._buckets)
        async with self._storage_places.hold(user_folder, 1):
            return self._photo(await self._from_storage(stored), stored.shown)

    async def _from_storage(self, stored: StorageReference) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._storage.download(stored.bucket, stored.path, self._max_bytes)
        except TimeoutError as exc:
            raise Transient("photo_host_unavailable", f"{stored.shown}: the download timed out") from exc

    def _photo(self, data: bytes, shown: str) -> Photo:
        if not data:
            raise BadInput("photo_empty", f"{shown}: the file is empty")
        if len(data) > self._max_bytes:
            raise too_large(shown, self._max_bytes)
        try:
            return Photo(data, inspect(data).mime_type)
        except TooManyPixels as exc:
            raise BadInput("photo_too_large", f"{shown}: {exc}") from exc
        except ValueError as exc:
            if _WEB_PAGE.match(data[:_PAGE_BYTES]):
                said = (
                    f"{shown} is a web page, not a photo, as share links often are; use the photo's own URL"
                )
                raise BadInput("photo_not_an_image", said) from exc
            raise BadInput("photo_not_an_image", f"{shown}: {exc}") from exc
