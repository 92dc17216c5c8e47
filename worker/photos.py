"""Source photos in hand: fetched from Storage or the web within caps, each once per run.

Refuses what is no photo by its bytes, whatever its name or the host's header says.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import httpcore

from worker.address import is_url, parse_photo_url, parse_storage_reference
from worker.download import PhotoDownload, too_large
from worker.errors import BadInput, Transient
from worker.image import TooManyPixels, inspect
from worker.job import Photo
from worker.lookup import Resolver, resolve
from worker.photo_hosts import AllowedHosts, RunHosts

Key = tuple[str, str]

MAX_PHOTO_BYTES = 7_000_000
"""Gemini's limit for one inline photo (Vertex AI, "Image understanding")."""


_WEB_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?<(?:!doctype\s+html|html|head|body|title|script|meta|!--)",
    re.IGNORECASE,
)


class PhotoBucket(Protocol):
    """Reads one object of our own Storage, at most `max_bytes`; raises BadInput or Transient."""

    async def download(self, bucket: str, path: str, max_bytes: int) -> bytes: ...


class PhotoSource(Protocol):
    """What the cache fetches from; raises BadInput or Transient."""

    async def fetch(self, reference: str, user_folder: str) -> Photo: ...


class PhotoFetcher:
    """Fetches the photo behind a reference: `https://…`, or `bucket/path` in our Storage.

    `hosts` are those that `https://` photos may come from; `*` is any public one.
    `timeout_seconds` caps a whole fetch, redirects included, from when it is its turn: at most
    `max_concurrent` run at a time, which bounds the memory of half-read photos. `resolver`, `network` and
    `tls` default to the system's; whatever they are, only public addresses are connected to.
    """

    def __init__(
        self,
        storage: PhotoBucket,
        buckets: Collection[str],
        *,
        hosts: Collection[str] = ("*",),
        max_bytes: int = MAX_PHOTO_BYTES,
        timeout_seconds: float = 20.0,
        max_redirects: int = 3,
        max_concurrent: int = 16,
        resolver: Resolver = resolve,
        network: httpcore.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
        contact: str | None = None,
    ) -> None:
        self._storage = storage
        self._buckets = frozenset(buckets)
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._turns = asyncio.Semaphore(max_concurrent)
        self._hosts = RunHosts(AllowedHosts(hosts))
        self._web = PhotoDownload(
            max_bytes=max_bytes,
            max_redirects=max_redirects,
            max_connections=max_concurrent,
            timeout_seconds=timeout_seconds,
            resolver=resolver,
            network=network,
            tls=tls,
            contact=contact,
        )

    async def fetch(self, reference: str, user_folder: str) -> Photo:
        """The photo's bytes, with the type read from them; raises BadInput or Transient."""
        if is_url(reference):
            url = parse_photo_url(reference)
            async with self._turns:
                return self._photo(await self._web.get(url, user_folder, self._hosts), url.shown)
        stored = parse_storage_reference(reference, user_folder, self._buckets)
        async with self._turn(stored.shown):
            data = await self._storage.download(stored.bucket, stored.path, self._max_bytes)
            return self._photo(data, stored.shown)

    async def close(self) -> None:
        """Close the connections to photo hosts."""
        await self._web.close()

    @asynccontextmanager
    async def _turn(self, shown: str) -> AsyncIterator[None]:
        try:
            async with self._turns, asyncio.timeout(self._timeout_seconds):
                yield
        except TimeoutError as exc:
            raise Transient("photo_host_unavailable", f"{shown}: did not arrive in time") from exc

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
            if _WEB_PAGE.match(data):
                said = (
                    f"{shown} is a web page, not a photo: share links often are; use the photo's own address"
                )
                raise BadInput("photo_not_an_image", said) from exc
            raise BadInput("photo_not_an_image", f"{shown}: {exc}") from exc


@dataclass(slots=True)
class _Flight:
    """A fetch under way and how many wait for it."""

    task: asyncio.Task[Photo]
    waiting: int = 0


class PhotoCache:
    """One per run: each reference is fetched once per user, even when asked for concurrently.

    Photos are kept up to `max_bytes` in all, the least recently used go first. BadInput is remembered,
    Transient is not, so a retry asks again. A fetch that nobody waits for any more is cancelled.
    """

    def __init__(self, source: PhotoSource, max_bytes: int = 256 * 1024 * 1024) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._bytes = 0
        self._photos: OrderedDict[Key, Photo] = OrderedDict()
        self._refusals: dict[Key, tuple[str, str]] = {}
        self._flights: dict[Key, _Flight] = {}
        self._tasks: set[asyncio.Task[Photo]] = set()
        self._closed = False

    async def fetch(self, reference: str, user_folder: str) -> Photo:
        """The photo, from memory if it is there; raises BadInput or Transient."""
        key = (user_folder, reference)
        if self._closed:
            raise Transient("photo_fetch_stopped", "the run has ended; no photo is fetched any more")
        if key in self._refusals:
            raise BadInput(*self._refusals[key])
        if key in self._photos:
            self._photos.move_to_end(key)
            return self._photos[key]
        return await self._join(key)

    async def close(self) -> None:
        """Stop every fetch and forget the photos; whoever still waits gets Transient."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._photos.clear()
        self._bytes = 0

    async def _join(self, key: Key) -> Photo:
        flight = self._flights.get(key) or self._start(key)
        flight.waiting += 1
        try:
            # Unlike awaiting the task, this neither cancels it with its waiter nor the waiter with it.
            await asyncio.wait([flight.task])
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                del self._flights[key]
        if flight.task.cancelled():
            raise Transient("photo_fetch_stopped", "the fetch of the photo was stopped")
        return flight.task.result()

    def _start(self, key: Key) -> _Flight:
        user_folder, reference = key
        task = asyncio.create_task(self._source.fetch(reference, user_folder))
        flight = self._flights[key] = _Flight(task)
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._land(key, flight))
        return flight

    def _land(self, key: Key, flight: _Flight) -> None:
        self._tasks.discard(flight.task)
        failure = None if flight.task.cancelled() else flight.task.exception()
        if self._flights.get(key) is not flight:
            return  # abandoned; another may be under way for the same photo
        del self._flights[key]
        if flight.task.cancelled() or self._closed:
            return
        if isinstance(failure, BadInput):
            self._refusals[key] = (failure.code, failure.message)  # not the error: its traceback holds bytes
        elif failure is None:
            self._keep(key, flight.task.result())

    def _keep(self, key: Key, photo: Photo) -> None:
        self._photos[key] = photo
        self._bytes += len(photo.data)
        while self._bytes > self._max_bytes:
            _, dropped = self._photos.popitem(last=False)
            self._bytes -= len(dropped.data)
