"""Photos in the body of a request, encoded piece by piece while it is sent.

The SDK encodes a request as a whole, as base64 and again as JSON: 74 MB of photos keep the event loop, which
all runs share, for a second and more. So it is given placeholders, which are replaced on the way out.
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
"""Of a photo: about 1 ms each. A multiple of 3, so that the pieces' base64 makes up that of the photo."""

_photos: ContextVar[Mapping[bytes, bytes]] = ContextVar("photos")
"""The photos behind placeholders, as the SDK writes these: it hands nothing else on to its HTTP client."""


@contextmanager
def placeholders(photos: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Bytes to give to the SDK in place of photos, in requests that are sent while the context is open."""
    given = [secrets.token_bytes(24) for _ in photos]
    reset = _photos.set(dict(zip(map(base64.urlsafe_b64encode, given), photos, strict=True)))
    try:
        yield given
    finally:
        _photos.reset(reset)


async def fill_in(request: httpx.Request) -> None:
    """Put the photos where the placeholders are; for an httpx client to call before it sends a request."""
    photos = _photos.get({})
    if not photos:
        return
    parts = re.split(b"(%s)" % b"|".join(photos), request.content)
    if len(parts) != 2 * len(photos) + 1:
        raise ValueError("the SDK does not send each photo once, as URL-safe base64")
    request.stream = PhotoBody(parts[::2], [photos[name] for name in parts[1::2]])
    request.headers["Content-Length"] = str(request.stream.size)


class PhotoBody(httpx.AsyncByteStream):
    """JSON with a photo in each of its gaps."""

    def __init__(self, json: Sequence[bytes], photos: Sequence[bytes]) -> None:
        self._json = json
        self._photos = photos

    @property
    def size(self) -> int:
        """The bytes of the whole body."""
        return sum(map(len, self._json)) + sum((len(photo) + 2) // 3 * 4 for photo in self._photos)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Encode the next piece once the one before has been taken."""
        for json, photo in zip(self._json, [*self._photos, b""], strict=True):
            yield json
            for start in range(0, len(photo), PIECE_BYTES):
                yield base64.urlsafe_b64encode(photo[start : start + PIECE_BYTES])
