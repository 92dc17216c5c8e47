"""Room for bytes: how much of something a worker has in hand at once, whoever of its runs and jobs asks."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

PHOTO_BYTES = 384 * 1024 * 1024
"""Of source photos in the hands of jobs."""

CALL_BYTES = 192 * 1024 * 1024
"""Of photos in calls to Gemini: a byte becomes 3.3 there (`python -m bench memory`)."""


class Room:
    """At most `limit` bytes at a time, first come, first served; what is larger gets all of it, alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    async def take(self, size: int) -> Share:
        """Wait until there is room for `size` bytes. They are given back by leaving the share's context."""
        async with self._turn:
            while self._taken and self._taken + size > self._limit:
                self._freed.clear()
                await self._freed.wait()
            self._taken += size
        return Share(self, size)

    def give_back(self, size: int) -> None:
        """Let others have so many bytes; for `Share`."""
        self._taken -= size
        self._freed.set()


class Share:
    """Bytes taken from a room, given back when its context is left."""

    def __init__(self, room: Room, size: int) -> None:
        self._room = room
        self._size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shrink(0)

    def shrink(self, size: int) -> None:
        """Keep only `size` bytes of it: what was taken was a guess."""
        self._room.give_back(self._size - size)
        self._size = size
