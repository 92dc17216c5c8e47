"""Which photos Gemini takes, and the last that came, for tests that ask what was sent.

Source: Gemini API, "Image understanding" (types), "File input methods" (100 MB a request); CMYK and animated
photos are answered with the 400 that a photo cannot be processed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import threading
from collections import OrderedDict

import pi_heif
from PIL import Image

MAX_BODY_BYTES = 100_000_000
TYPES = {
    "image/jpeg": ("JPEG", "MPO"),
    "image/png": ("PNG",),
    "image/webp": ("WEBP",),
    "image/heic": ("HEIF",),
    "image/heif": ("HEIF",),
}
Blob = tuple[str, str]
"""The type of a photo and its base64."""

pi_heif.register_heif_opener()


class InvalidPhoto(ValueError):
    """The request is refused for this photo's type; the message is the API's."""


class UnreadablePhoto(ValueError):
    """The photo is not base64, not an image, or not one that the API can process."""


def decoded(photo_base64: str) -> bytes:
    """The bytes of a photo; the SDK sends the URL-safe alphabet. Raises UnreadablePhoto."""
    try:
        return base64.b64decode(photo_base64.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise UnreadablePhoto(str(exc)) from exc


class Received:
    """Checks photos, each content once, and keeps the last `most` by their SHA-256; thread-safe."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._photos: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, blobs: tuple[Blob, ...]) -> tuple[str, ...]:
        """The SHA-256 of each photo; raises InvalidPhoto or UnreadablePhoto."""
        return tuple(self._take(mime_type, decoded(text)) for mime_type, text in blobs)

    def photo(self, sha: str) -> bytes:
        """The bytes of a photo that came lately."""
        return self._photos[sha]

    def _take(self, mime_type: str, data: bytes) -> str:
        sha = hashlib.sha256(data).hexdigest()
        with self._lock:
            known = sha in self._photos
        if not known:
            _check(mime_type, data)
        with self._lock:
            self._photos[sha] = data
            self._photos.move_to_end(sha)
            while len(self._photos) > self._most:
                self._photos.popitem(last=False)
        return sha


def _check(mime_type: str, data: bytes) -> None:
    if mime_type not in TYPES:
        raise InvalidPhoto(f"Unsupported MIME type: {mime_type}")
    try:
        with Image.open(io.BytesIO(data), formats=TYPES[mime_type]) as image:
            animated, mode = getattr(image, "is_animated", False) and image.format != "MPO", image.mode
    except (OSError, ValueError) as exc:
        raise UnreadablePhoto(str(exc)) from exc
    if animated or mode == "CMYK":
        raise UnreadablePhoto("animated" if animated else "CMYK")
