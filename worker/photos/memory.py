"""The source photos that a worker holds in memory; all runs share them, and each photo is held once.

A job reserves memory for its photos before it fetches the first one, and releases it when it ends, or when
other users have waited for it too long. Released photos stay cached for later jobs while there is memory,
until the last run that may use them ends.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from worker.common.fair_budget import FairBudget
from worker.errors import BadInput, Transient
from worker.jobs import Photo
from worker.photos.prepare import MAX_PREPARED_BYTES, MOST_PHOTOS

PHOTO_BYTES = 2 * MOST_PHOTOS * MAX_PREPARED_BYTES
"""Limit for prepared photos: those that jobs hold, and those cached for later jobs; as base64 a third more.
One user has at most half, which is enough for every order, so the other half is enough for every order of
another user. Requests to Gemini hold no copies."""

Key = tuple[str, str]
"""A user's folder and a photo reference; photos are never shared between users."""


class PhotoSource(Protocol):
    """Fetches a photo; raises BadInput, Transient or Misconfigured."""

    async def fetch(self, reference: str, user_folder: str) -> Photo: ...


@dataclass(slots=True, eq=False)
class _Entry:
    """A photo that is reserved, being fetched, or loaded. `size` is MAX_PREPARED_BYTES until it is known.

    `holders` is the number of jobs that hold it, `waiting` the number that wait for `fetch`.
    """

    began: float
    size: int = MAX_PREPARED_BYTES
    holders: int = 0
    waiting: int = 0
    fetch: asyncio.Task[Photo] | None = None
    photo: Photo | None = None
    refusal: tuple[str, str] | None = field(default=None, repr=False)


class PhotoMemory:
    """The photo cache of one worker. `monotonic` returns seconds."""

    def __init__(self, max_bytes: int, monotonic: Callable[[], float]) -> None:
        self._budget = FairBudget(max_bytes, monotonic=monotonic)
        self._monotonic = monotonic
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._runs: set[RunPhotos] = set()

    def open(self, source: PhotoSource) -> RunPhotos:
        """The photos of a run that starts now, fetched from `source`."""
        run = RunPhotos(self, source, self._monotonic())
        self._runs.add(run)
        return run

    async def reserve(self, keys: Sequence[Key], usable_since: float) -> dict[Key, _Entry]:
        """Wait for memory for photos of one user, and hold them; for `RunPhotos`."""
        held: dict[Key, _Entry] = {}
        owner = keys[0][0]

        def size() -> int:
            known = (self._usable(key, usable_since) for key in keys)
            return sum(MAX_PREPARED_BYTES if entry is None else self._unheld(entry) for entry in known)

        def granted() -> None:
            for key in keys:
                entry = held[key] = self._usable(key, usable_since) or _Entry(self._monotonic())
                self._budget.add(owner, self._unheld(entry))
                entry.holders += 1
                self._entries[key] = entry
                self._entries.move_to_end(key)
            self._evict()

        try:
            await self._budget.wait(owner, size, granted)
        except asyncio.CancelledError:
            self.release(held)
            raise
        return held

    async def until_others_wait(self, user_folder: str) -> None:
        """Wait until another user has to wait for memory; for `HeldPhotos`."""
        await self._budget.until_others_wait(user_folder)

    def release(self, held: dict[Key, _Entry]) -> None:
        """Release reserved photos; loaded ones stay cached for later jobs."""
        for key, entry in held.items():
            entry.holders -= 1
            if not entry.holders:
                if not entry.photo and not entry.refusal and self._entries.get(key) is entry:
                    del self._entries[key]
                self._budget.add(key[0], -entry.size)
        self._forget_old()
        self._evict()

    async def fetch(self, key: Key, entry: _Entry, source: PhotoSource) -> Photo:
        """The photo of a held entry, fetched unless it is loaded; for `RunPhotos`."""
        if entry.refusal:
            raise BadInput(*entry.refusal)
        if entry.photo:
            return entry.photo
        if entry.fetch is None:
            entry.fetch = asyncio.create_task(self._fetch(key, entry, source))
        fetch = entry.fetch
        entry.waiting += 1
        try:
            # Awaiting the task itself would cancel it with its waiter, and the waiter with it.
            await asyncio.wait([fetch])
        finally:
            entry.waiting -= 1
            if not entry.waiting:
                fetch.cancel()
                entry.fetch = None
        if fetch.cancelled():
            raise Transient("photo_fetch_stopped", "the download of the photo was cancelled")
        return fetch.result()

    def close(self, run: RunPhotos) -> None:
        """Close a run and drop photos that no open run may use; for `RunPhotos`."""
        self._runs.discard(run)
        self._forget_old()

    async def _fetch(self, key: Key, entry: _Entry, source: PhotoSource) -> Photo:
        reference, user_folder = key[1], key[0]
        try:
            photo = await source.fetch(reference, user_folder)
        except BadInput as error:
            entry.refusal = (error.code, error.message)  # not the error: its traceback keeps bytes in memory
            self._resize(key, entry, 0)
            raise
        entry.photo = photo
        self._resize(key, entry, photo.size)
        return photo

    def _resize(self, key: Key, entry: _Entry, size: int) -> None:
        if entry.holders:
            self._budget.add(key[0], size - entry.size)
        entry.size = size

    def _usable(self, key: Key, since: float) -> _Entry | None:
        """The entry of a photo, unless it is older than the run: the user may have replaced the photo."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry.began >= since else None

    @staticmethod
    def _unheld(entry: _Entry) -> int:
        """The bytes that holding an entry would add to the reserved memory."""
        return 0 if entry.holders else entry.size

    def _evict(self) -> None:
        """Drop cached photos that no job holds, least recently used first, until the rest fit in memory."""
        unheld = [(key, entry) for key, entry in self._entries.items() if not entry.holders]
        excess = sum(entry.size for _, entry in unheld) - max(self._budget.free, 0)
        for key, entry in unheld:
            if excess <= 0:
                return
            excess -= entry.size
            del self._entries[key]

    def _forget_old(self) -> None:
        oldest = min((run.began for run in self._runs), default=math.inf)
        for key, entry in list(self._entries.items()):
            if not entry.holders and entry.began < oldest:
                del self._entries[key]


class RunPhotos:
    """The source photos of one run."""

    def __init__(self, memory: PhotoMemory, source: PhotoSource, began: float) -> None:
        self._memory = memory
        self._source = source
        self.began = began

    @asynccontextmanager
    async def hold(self, references: Sequence[str], user_folder: str) -> AsyncIterator[HeldPhotos]:
        """Wait for memory for photos of one user, and hold it while the context is open.

        Raises BadInput for more photos than an order can have, as a row may that an app inserts by itself.
        """
        if len(references) > MOST_PHOTOS:
            message = f"The order has {len(references)} photos, and a request to Gemini takes {MOST_PHOTOS}."
            raise BadInput("too_many_photos", message)
        keys = [(user_folder, reference) for reference in dict.fromkeys(references)]
        held = await self._memory.reserve(keys, self.began)
        try:
            yield HeldPhotos(self._memory, self._source, user_folder, held)
        finally:
            self._memory.release(held)

    def close(self) -> None:
        """Drop the photos that no other run may use."""
        self._memory.close(self)


class HeldPhotos:
    """Photos for which a job has reserved memory."""

    def __init__(
        self, memory: PhotoMemory, source: PhotoSource, user_folder: str, held: dict[Key, _Entry]
    ) -> None:
        self._memory = memory
        self._source = source
        self._user_folder = user_folder
        self._held = held

    @asynccontextmanager
    async def giving_way(self, after_seconds: float) -> AsyncIterator[None]:
        """Raise TimeoutError in the context when, after these seconds, other users wait for the memory."""
        async with asyncio.timeout(None) as limit:
            watch = asyncio.create_task(self._end_when_wanted(limit, after_seconds))
            try:
                yield
            finally:
                watch.cancel()

    async def _end_when_wanted(self, limit: asyncio.Timeout, after_seconds: float) -> None:
        await asyncio.sleep(after_seconds)
        await self._memory.until_others_wait(self._user_folder)
        limit.reschedule(0.0)

    async def fetch(self, reference: str) -> Photo:
        """The photo, fetched unless another job already has it. Raises BadInput, Transient or Misconfigured.

        BadInput is cached; other errors are not, so that a retry fetches again.
        """
        key = (self._user_folder, reference)
        return await self._memory.fetch(key, self._held[key], self._source)
