"""The source photos that a worker holds in memory, for all its runs together and each only once.

A job reserves memory for its photos before the first is fetched, and lets them go when it ends. Until the
last run ends that may use them, photos stay for the next job, as far as there is room.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from worker.errors import BadInput, Transient
from worker.jobs import Photo
from worker.photos.fetch import MAX_PHOTO_BYTES
from worker.run.memory import ByteBudget

Key = tuple[str, str]
"""A user's folder and a reference: photos are never shared between users."""


class PhotoSource(Protocol):
    """What fetches a photo; raises BadInput, Transient or Misconfigured."""

    async def fetch(self, reference: str, user_folder: str) -> Photo: ...


@dataclass(slots=True, eq=False)
class _Entry:
    """A photo: wanted, on its way, or here. `size` counts the largest photo until the size is known.

    `holders` are the jobs that want it, `waiting` those that wait for `fetch` now.
    """

    began: float
    size: int = MAX_PHOTO_BYTES
    holders: int = 0
    waiting: int = 0
    fetch: asyncio.Task[Photo] | None = None
    photo: Photo | None = None
    refusal: tuple[str, str] | None = field(default=None, repr=False)


class PhotoMemory:
    """Of one worker. `monotonic` returns seconds."""

    def __init__(self, max_bytes: int, monotonic: Callable[[], float]) -> None:
        self._budget = ByteBudget(max_bytes)
        self._monotonic = monotonic
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._runs: set[RunPhotos] = set()

    def open(self, source: PhotoSource) -> RunPhotos:
        """The photos of a run that begins now, fetched from `source`."""
        run = RunPhotos(self, source, self._monotonic())
        self._runs.add(run)
        return run

    async def reserve(self, keys: Sequence[Key], usable_since: float) -> dict[Key, _Entry]:
        """Wait until there is room for photos of one user, and hold them; for `RunPhotos`."""
        held: dict[Key, _Entry] = {}
        owner = keys[0][0]

        def size() -> int:
            known = (self._usable(key, usable_since) for key in keys)
            return sum(MAX_PHOTO_BYTES if entry is None else self._unheld(entry) for entry in known)

        def granted() -> None:
            for key in keys:
                entry = held[key] = self._usable(key, usable_since) or _Entry(self._monotonic())
                self._budget.add(owner, self._unheld(entry))
                entry.holders += 1
                self._entries[key] = entry
                self._entries.move_to_end(key)
            self._make_room()

        try:
            await self._budget.wait(owner, size, granted)
        except asyncio.CancelledError:
            self.release(held)
            raise
        return held

    def release(self, held: dict[Key, _Entry]) -> None:
        """Let go of what was reserved; a photo that came is kept for the next job."""
        for key, entry in held.items():
            entry.holders -= 1
            if not entry.holders:
                if not entry.photo and not entry.refusal and self._entries.get(key) is entry:
                    del self._entries[key]
                self._budget.add(key[0], -entry.size)
        self._forget_old()
        self._make_room()

    async def fetch(self, key: Key, entry: _Entry, source: PhotoSource) -> Photo:
        """The photo of a held entry, fetched unless it is here; for `RunPhotos`."""
        if entry.refusal:
            raise BadInput(*entry.refusal)
        if entry.photo:
            return entry.photo
        if entry.fetch is None:
            entry.fetch = asyncio.create_task(self._fetch(key, entry, source))
        fetch = entry.fetch
        entry.waiting += 1
        try:
            # Unlike awaiting the task, this neither cancels it with its waiter nor the waiter with it.
            await asyncio.wait([fetch])
        finally:
            entry.waiting -= 1
            if not entry.waiting:
                fetch.cancel()
                entry.fetch = None
        if fetch.cancelled():
            raise Transient("photo_fetch_stopped", "the fetch of the photo was stopped")
        return fetch.result()

    def close(self, run: RunPhotos) -> None:
        """Forget what no open run may use; for `RunPhotos`."""
        self._runs.discard(run)
        self._forget_old()

    async def _fetch(self, key: Key, entry: _Entry, source: PhotoSource) -> Photo:
        reference, user_folder = key[1], key[0]
        try:
            photo = await source.fetch(reference, user_folder)
        except BadInput as error:
            entry.refusal = (error.code, error.message)  # not the error: its traceback holds bytes
            self._resize(key, entry, 0)
            raise
        entry.photo = photo
        self._resize(key, entry, len(photo.data))
        return photo

    def _resize(self, key: Key, entry: _Entry, size: int) -> None:
        if entry.holders:
            self._budget.add(key[0], size - entry.size)
        entry.size = size

    def _usable(self, key: Key, since: float) -> _Entry | None:
        """What is known of a photo, unless it is older than the run: the user may have replaced it."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry.began >= since else None

    @staticmethod
    def _unheld(entry: _Entry) -> int:
        """The bytes that holding an entry adds to what is held."""
        return 0 if entry.holders else entry.size

    def _make_room(self) -> None:
        """Drop photos that nobody holds, the least recently used first, as far as others need the room."""
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
        """Hold memory for photos of one user while the context is open, once there is room for them."""
        keys = [(user_folder, reference) for reference in dict.fromkeys(references)]
        held = await self._memory.reserve(keys, self.began)
        try:
            yield HeldPhotos(self._memory, self._source, held)
        finally:
            self._memory.release(held)

    def close(self) -> None:
        """Forget the photos that no other run may use."""
        self._memory.close(self)


class HeldPhotos:
    """Photos that a job has reserved memory for."""

    def __init__(self, memory: PhotoMemory, source: PhotoSource, held: dict[Key, _Entry]) -> None:
        self._memory = memory
        self._source = source
        self._held = {reference: ((folder, reference), entry) for (folder, reference), entry in held.items()}

    async def fetch(self, reference: str) -> Photo:
        """The photo, fetched unless another job has it already. Raises BadInput, Transient or Misconfigured.

        BadInput is remembered, anything else is not, so a retry asks again.
        """
        key, entry = self._held[reference]
        return await self._memory.fetch(key, entry, self._source)
