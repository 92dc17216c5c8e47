"""Removes metadata from a JPEG, PNG or WebP without touching its pixels: what is not needed to show it goes.

What stays beside the pixels are numbers of a fixed length that say how colors are stored. Color profiles,
which have texts, go too: the caller keeps only files whose colors do not change without. For files that
Pillow has decoded without an error; anything after the image's end is dropped as well.
"""

from __future__ import annotations

from collections.abc import Iterator

KINDS = ("JPEG", "PNG", "WEBP")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"}
_PNG_NUMBERS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"sBIT": 4, b"cICP": 4}
"""How many bytes the numbers of a chunk have at most; what is longer has something added to them."""
_WEBP_IMAGES = {b"VP8 ", b"VP8L"}
_WEBP_PIXELS = {*_WEBP_IMAGES, b"VP8X", b"ALPH"}
_WEBP_METADATA = 0x2C
"""The flags of VP8X for a color profile, EXIF and XMP."""
_JPEG_PIXELS = {*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDD} - {0xC8}
"""Frames, tables of codes and quantization, arithmetic coding, scans, restart intervals."""
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_ADOBE, _ADOBE_BYTES = b"Adobe", 12
_JPEG_ADOBE = 0xEE
_JPEG_START, _JPEG_END, _JPEG_SCAN = 0xD8, 0xD9, 0xDA
_JPEG_IN_SCAN = {0x00, *range(0xD0, 0xD8)}


def without_metadata(kind: str, data: bytes) -> bytes:
    """The file without metadata; `kind` is one of KINDS.

    Raises ValueError for a file that is malformed, and for an animation that has no image beside its frames.
    """
    if kind == "PNG":
        return _PNG_SIGNATURE + b"".join(_png_chunks(data))
    if kind == "JPEG":
        parts = list(_jpeg_parts(data))
        if not _JPEG_FRAMES & {part[1] for part in parts} or parts[-1][1] != _JPEG_SCAN:
            raise ValueError("the JPEG has no picture before its first end")
        return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"
    chunks = list(_webp_chunks(data))
    if not _WEBP_IMAGES & {chunk[:4] for chunk in chunks}:
        raise ValueError("the WebP has no image beside its frames")
    content = b"WEBP" + b"".join(chunks)
    return b"RIFF" + len(content).to_bytes(4, "little") + content


def first_scan_components(data: bytes) -> int:
    """How many components the first scan of a JPEG has. Raises ValueError if there is no scan.

    If the frame has more, further scans follow, and decoders keep the coefficients of all of them.
    """
    at = _jpeg_marker(data, 2)
    while data[at + 1] != _JPEG_SCAN:
        alone = data[at + 1] in (_JPEG_START, _JPEG_END)
        at = _jpeg_marker(data, at + 2 + (0 if alone else int.from_bytes(data[at + 2 : at + 4], "big")))
    return data[at + 4]


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """Segments, and scans with their compressed data, up to the first end."""
    at = 2
    while True:
        at = _jpeg_marker(data, at)
        marker = data[at + 1]
        if marker == _JPEG_END:
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _JPEG_SCAN:
            end = _jpeg_marker(data, end)
        if marker in _JPEG_PIXELS:
            yield data[at:end]
        elif marker == _JPEG_ADOBE and data[at + 4 : end].startswith(_ADOBE):
            yield _adobe(data[at + 4 : end])
        at = end


def _jpeg_marker(data: bytes, at: int) -> int:
    """Where the next marker is that is not part of a scan's data."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise ValueError("the JPEG has no end")
        if data[at + 1] not in _JPEG_IN_SCAN and data[at + 1] != 0xFF:
            return at
        at += 1 if data[at + 1] == 0xFF else 2


def _adobe(content: bytes) -> bytes:
    """The segment that tells RGB from YCbCr, without anything added to it; nothing if it is too short."""
    if len(content) < _ADOBE_BYTES:
        return b""
    return bytes([0xFF, _JPEG_ADOBE]) + (_ADOBE_BYTES + 2).to_bytes(2, "big") + content[:_ADOBE_BYTES]


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at, name = len(_PNG_SIGNATURE), b""
    while name != b"IEND":
        name = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            raise ValueError("the PNG has no end")
        if name in _PNG_PIXELS or end - at - 12 <= _PNG_NUMBERS.get(name, -1):
            yield data[at:end]
        at = end


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    at, end_of_file = 12, min(8 + int.from_bytes(data[4:8], "little"), len(data))
    while at + 8 <= end_of_file:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunk = data[at : at + 8 + size + size % 2]
        at += len(chunk)
        if name == b"VP8X":
            yield chunk[:8] + bytes([chunk[8] & ~_WEBP_METADATA]) + chunk[9:]
        elif name in _WEBP_PIXELS:
            yield chunk
