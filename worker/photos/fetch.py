"""Fetches one source photo from Storage or the web, within limits of bytes, time and concurrency, and has it
prepared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from worker.common.fair_budget import FairBudget
from worker.errors import BadInput, Transient
from worker.jobs import Photo
from worker.photos.address import StorageReference, is_url, parse_photo_url, parse_storage_reference
from worker.photos.download import PhotoDownload
from worker.photos.hosts import AllowedHosts, RunHosts

USUAL_BYTES = 6_000_000
"""Memory that a download gets first, more than most photos have, so that 16 fit into ORIGINAL_BYTES. A larger
photo is downloaded again, with memory for the largest."""

ORIGINAL_BYTES = 96 * 1024 * 1024
"""Limit for photos that are being downloaded, or wait to be prepared."""


class PhotoBucket(Protocol):
    """Reads one object from our Storage, at most `max_bytes`; raises BadInput or Transient."""

    async def download(self, bucket: str, path: str, max_bytes: int) -> bytes: ...


class Preparer(Protocol):
    """Makes of a file what is sent to Gemini; raises BadInput or Transient, which begin with `shown`."""

    async def prepare(self, data: bytes, user_folder: str, shown: str) -> Photo: ...


class PhotoFetcher:
    """Fetches and prepares the photos of one run: `https://…`, or `bucket/path` in our Storage.

    `originals` is the memory for files until they are prepared. `buckets` and `hosts` are the allowed
    sources. At most `max_concurrent` fetches from Storage and as many from the web run concurrently, and at
    most half of each for one user, so that one user's slow hosts or large photos do not block others.
    `timeout_seconds` limits a fetch from Storage, without the wait for its place.
    """

    def __init__(
        self,
        storage: PhotoBucket,
        web: PhotoDownload,
        preparer: Preparer,
        originals: FairBudget,
        buckets: Collection[str],
        hosts: Collection[str],
        *,
        max_bytes: int,
        monotonic: Callable[[], float],
        timeout_seconds: float = 20.0,
        max_concurrent: int = 16,
    ) -> None:
        self._storage = storage
        self._web = web
        self._preparer = preparer
        self._originals = originals
        self._buckets = frozenset(buckets)
        self._hosts = RunHosts(AllowedHosts(hosts))
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._storage_places = FairBudget(max_concurrent, monotonic=monotonic)
        self._web_places = FairBudget(max_concurrent, monotonic=monotonic)

    async def fetch(self, reference: str, user_folder: str) -> Photo:
        """The photo as it is sent to Gemini; raises BadInput or Transient."""
        if is_url(reference):
            url = parse_photo_url(reference)

            async def get(most: int) -> bytes:
                async with self._web_places.hold(user_folder, 1):
                    return await self._web.get(url, user_folder, self._hosts, most)

            return await self._prepared(get, user_folder, url.shown)
        stored = parse_storage_reference(reference, user_folder, self._buckets)

        async def read(most: int) -> bytes:
            async with self._storage_places.hold(user_folder, 1):
                return await self._from_storage(stored, most)

        return await self._prepared(read, user_folder, stored.shown)

    async def _prepared(
        self, download: Callable[[int], Awaitable[bytes]], user_folder: str, shown: str
    ) -> Photo:
        """Download with the usual memory, or else with the most, and prepare."""
        for most in sorted({min(USUAL_BYTES, self._max_bytes), self._max_bytes}):
            async with self._originals.hold(user_folder, most):
                try:
                    data = await download(most)
                except BadInput as error:
                    if error.code == "photo_too_large" and most < self._max_bytes:
                        continue
                    raise
                if not data:
                    raise BadInput("photo_empty", f"{shown}: the file is empty")
                return await self._preparer.prepare(data, user_folder, shown)
        raise AssertionError("the last download raises or returns")

    async def _from_storage(self, stored: StorageReference, most: int) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._storage.download(stored.bucket, stored.path, most)
        except TimeoutError as exc:
            raise Transient("photo_host_unavailable", f"{stored.shown}: the download timed out") from exc
