"""Prepares source photos for Gemini: upright, sRGB, small, without metadata; each content once per worker.

Decoding happens in processes of its own (`worker.photos.decoder_main`). A file may be made so that decoding
it takes minutes, gigabytes, or crashes the decoder: a thread could not be stopped, and a crash would end the
worker with all its runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from worker import log
from worker.common.fair_budget import FairBudget
from worker.errors import BadInput, Transient
from worker.jobs import Photo
from worker.photos.decoder_process import BROKEN, DecoderProcess
from worker.photos.kinds import kind_of

MOST_PHOTOS = 14
"""The most photos that an order can have."""

MAX_PREPARED_BYTES = 3_500_000
"""Few photos reach it at the usual edge. MOST_PHOTOS fit into the 100 MB of a request to Gemini as base64,
and into half of the memory for photos."""

CACHE_BYTES = 32 * 1024 * 1024
"""Limit for prepared photos that are kept for later jobs and runs; in memory, as base64, a third more."""

DECODERS = 2
"""Processes that decode at a time. One user has at most half of them, so that a second user need not wait."""

ORDINARY_BYTES = 144 * 1024 * 1024
"""Memory for decoding an ordinary photo, such as a HEIC of 12 megapixels; one that needs more is large."""

LARGEST_BYTES = 448 * 1024 * 1024
"""Memory for decoding a large photo, such as a PNG of 100 megapixels; one that needs more is refused."""

LARGE_PHOTOS = 1
"""Large photos that are decoded at a time, less than DECODERS: the others always have memory for an ordinary
photo. So all decoders together have LARGEST_BYTES and ORDINARY_BYTES at most."""

CPU_SECONDS = 10
"""Processor time for one photo; the largest ordinary photos take less than five."""

WALL_SECONDS = 60.0
"""Time for one photo on a busy machine; if it is exceeded, the job is retried later."""

_REFUSAL_BYTES = 1024
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}


class _Interrupted(Exception):
    """A photo was not prepared, through no fault of its own."""


class _IsLarge(_Interrupted):
    """A photo was not prepared, because it is a large one and this was not its turn."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: str
    reason: str


class PhotoPreparer:
    """Prepares photos, at most DECODERS at a time; one instance per worker and event loop.

    `max_edge` is the longest edge in pixels; None keeps the size. `turns` grants decoders to users, `large`
    grants them the turns of large photos, both by the time that their photos have taken. `monotonic` returns
    seconds.
    """

    def __init__(self, max_edge: int | None, monotonic: Callable[[], float]) -> None:
        self._max_edge = max_edge
        self.turns = FairBudget(DECODERS, monotonic=monotonic)
        self.large = FairBudget(LARGE_PHOTOS, monotonic=monotonic)
        self._cache: OrderedDict[str, Photo | _Refusal] = OrderedDict()
        self._cached_bytes = 0
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._idle: list[DecoderProcess] = []

    async def prepare(self, data: bytes, user_folder: str, shown: str) -> Photo:
        """The photo as it is sent to Gemini. Raises BadInput or Transient, which begin with `shown`."""
        try:
            kind = kind_of(data)
        except ValueError as exc:
            raise BadInput("photo_not_an_image", f"{shown} {exc}") from exc
        digest = await asyncio.to_thread(_digest, data)
        try:
            found = self._cached(digest) or await self._prepared_once(digest, kind, data, user_folder)
        except (TimeoutError, _Interrupted) as exc:
            raise Transient("photo_not_prepared", f"{shown}: preparing it was interrupted") from exc
        if isinstance(found, _Refusal):
            raise BadInput(found.code, f"{shown} {found.reason}")
        return found

    async def warm_up(self) -> None:
        """Start the decoders, which otherwise start with the first photos. Raises OSError."""
        while len(self._idle) < DECODERS:
            self._idle.append(await DecoderProcess.start())

    async def close(self) -> None:
        """End the decoders."""
        while self._idle:
            await self._idle.pop().kill()

    async def _prepared_once(self, digest: str, kind: str, data: bytes, user_folder: str) -> Photo | _Refusal:
        """Prepare a photo. A large one waits for the turn of large photos, and has no decoder meanwhile."""
        try:
            return await self._in_turn(digest, kind, data, user_folder, ORDINARY_BYTES)
        except _IsLarge:
            async with self.large.hold(user_folder, 1):
                return await self._in_turn(digest, kind, data, user_folder, LARGEST_BYTES)

    async def _in_turn(
        self, digest: str, kind: str, data: bytes, user_folder: str, memory: int
    ) -> Photo | _Refusal:
        """Prepare a photo, or wait for another user who prepares the same content.

        Takes the user's turn before the lock of the content: whoever holds the lock is already being served,
        so nobody waits for another user's turn.
        """
        lock = self._under_way.setdefault(digest, asyncio.Lock())
        async with self.turns.hold(user_folder, 1), lock:
            found = self._cached(digest)
            if found is None:
                found = await self._prepared(kind, data, memory)
                self._keep(digest, found)
        return found

    async def _prepared(self, kind: str, data: bytes, memory: int) -> Photo | _Refusal:
        async with self._decoder() as decoder:
            try:
                async with asyncio.timeout(WALL_SECONDS):
                    made = await self._decoded(decoder, kind, data, memory)
            except BROKEN:
                made = await _crashed(decoder)
        if isinstance(made, Photo):
            log.event(
                "photo_prepared",
                type=f"image/{kind.lower()}",
                bytes=len(data),
                sent_bytes=made.size,
                sent_type=made.mime_type,
            )
        return made

    async def _decoded(
        self, decoder: DecoderProcess, kind: str, data: bytes, memory: int
    ) -> Photo | _Refusal:
        request = {
            "kind": kind, "size": len(data), "max_edge": self._max_edge, "max_bytes": MAX_PREPARED_BYTES,
            "memory": memory, "max_memory": LARGEST_BYTES, "cpu_seconds": CPU_SECONDS,
        }  # fmt: skip
        answer = await decoder.ask(request, data)
        content = await decoder.read(answer.get("size", 0))
        decoder.usable = True
        if "larger" in answer:
            raise _IsLarge
        if "failed" in answer:
            log.event("photo_decoder_failed", level="error", error=answer["failed"])
            raise _Interrupted
        if "refused" in answer:
            return _Refusal(*answer["refused"])
        return Photo(content, answer["mime_type"], len(data), answer["cpu_seconds"])

    @asynccontextmanager
    async def _decoder(self) -> AsyncIterator[DecoderProcess]:
        """An idle decoder or a new one; it is killed unless it ends its photo regularly."""
        decoder = self._idle.pop() if self._idle else None
        if decoder is None or not decoder.alive:
            decoder = await DecoderProcess.start()
        decoder.usable = False
        try:
            yield decoder
        finally:
            if decoder.usable:
                self._idle.append(decoder)
            else:
                await asyncio.shield(decoder.kill())

    def _cached(self, digest: str) -> Photo | _Refusal | None:
        found = self._cache.get(digest)
        if found is not None:
            self._cache.move_to_end(digest)
        return found

    def _keep(self, digest: str, found: Photo | _Refusal) -> None:
        self._cache[digest] = found
        self._cached_bytes += _cost(found)
        while self._cached_bytes > CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= _cost(oldest)


async def _crashed(decoder: DecoderProcess) -> _Refusal:
    """What became of a photo at which the decoder ended: the file's fault if the signal says so."""
    code = -await decoder.ended()
    log.event("photo_decoder_ended", level="warning", signal=code)
    if code == signal.SIGXCPU:
        return _Refusal(
            "photo_too_large", f"takes more than {CPU_SECONDS} seconds to decode: make it smaller"
        )
    if code in _CRASHES:
        return _Refusal("photo_damaged", "is damaged: it cannot be decoded")
    raise _Interrupted


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _cost(found: Photo | _Refusal) -> int:
    return found.size if isinstance(found, Photo) else _REFUSAL_BYTES
