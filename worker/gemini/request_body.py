"""Encodes photos piece by piece while a request is sent.

The SDK encodes the whole request as base64 and then as JSON: 74 MB of photos block the event loop, which all
runs share, for more than a second. So the SDK gets placeholders, which are replaced when the body is sent.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import httpx

PIECE_BYTES = 196_608
"""Bytes encoded at a time, in about 1 ms. A multiple of 3, so that the encoded pieces can be concatenated."""

_photos: ContextVar[Mapping[bytes, bytes]] = ContextVar("photos")
"""Photos by base64 placeholder. A ContextVar, because the SDK passes only the body to its HTTP client."""


@contextmanager
def placeholders(photos: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Placeholder bytes to pass to the SDK instead of photos, for requests sent while the context is open."""
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
    parts = re.split(b"(%s)" % b"|".join(photos), request.content)
    if len(parts) != 2 * len(photos) + 1:
        raise ValueError("the SDK did not send each photo exactly once as URL-safe base64")
    request.stream = PhotoBody(parts[::2], [photos[name] for name in parts[1::2]])
    request.headers["Content-Length"] = str(request.stream.size)


class PhotoBody(httpx.AsyncByteStream):
    """A request body: pieces of JSON with a photo between each two."""

    def __init__(self, json: Sequence[bytes], photos: Sequence[bytes]) -> None:
        self._json = json
        self._photos = photos

    @property
    def size(self) -> int:
        """The size of the body in bytes."""
        return sum(map(len, self._json)) + sum((len(photo) + 2) // 3 * 4 for photo in self._photos)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body, encoding each piece only when it is requested."""
        for json, photo in zip(self._json, [*self._photos, b""], strict=True):
            yield json
            for start in range(0, len(photo), PIECE_BYTES):
                yield base64.urlsafe_b64encode(photo[start : start + PIECE_BYTES])
