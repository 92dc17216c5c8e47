"""Puts photos into requests as they are already encoded.

The SDK would encode the whole request as base64 and then as JSON, for each image again: 74 MB of photos block
the event loop, which all runs share, for more than a second. So the SDK gets placeholders. They are replaced
when the body is sent, by the base64 to which each photo was encoded once.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import httpx

PIECE_BYTES = 262_144
"""Bytes sent at a time, so that other tasks run between them."""

_photos: ContextVar[Mapping[bytes, bytes]] = ContextVar("photos")
"""Photos by base64 placeholder. A ContextVar, because the SDK passes only the body to its HTTP client."""


@contextmanager
def placeholders(photos: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Placeholder bytes to pass to the SDK instead of photos, for requests sent while the context is open.

    `photos` are in URL-safe base64, as the SDK would encode them.
    """
    given = [secrets.token_bytes(24) for _ in photos]
    reset = _photos.set(dict(zip(map(base64.urlsafe_b64encode, given), photos, strict=True)))
    try:
        yield given
    finally:
        _photos.reset(reset)


async def fill_in(request: httpx.Request) -> None:
    """Replace the placeholders with the photos; a request hook of the httpx client."""
    photos = _photos.get({})
    if not photos:
        return
    parts: list[bytes] = []
    rest = request.content
    for placeholder, photo in photos.items():
        before, found, rest = rest.partition(placeholder)
        if not found or placeholder in rest:
            raise ValueError("the SDK did not send each photo exactly once, in order, as URL-safe base64")
        parts += [before, photo]
    request.stream = PhotoBody([*parts, rest])
    request.headers["Content-Length"] = str(request.stream.size)


class PhotoBody(httpx.AsyncByteStream):
    """A request body: JSON in parts, some of them photos."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts

    @property
    def size(self) -> int:
        """The size of the body in bytes."""
        return sum(map(len, self._parts))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces."""
        for part in self._parts:
            for start in range(0, len(part), PIECE_BYTES):
                yield part[start : start + PIECE_BYTES]
