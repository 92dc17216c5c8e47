"""Removes metadata from a JPEG, PNG or WebP without touching its pixels: what is not needed to show it goes.

For files that Pillow has decoded without an error; anything after the image's end is dropped as well.
"""

from __future__ import annotations

from collections.abc import Iterator

KINDS = ("JPEG", "PNG", "WEBP")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = {
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"),
    *(b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"cICP"),
}
_WEBP_CHUNKS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP"}
_WEBP_EXIF_AND_XMP = 0x0C
_JPEG_METADATA = {*range(0xE0, 0xF0), 0xFE}
_JPEG_NEEDED = (b"\xff\xe2..ICC_PROFILE\0", b"\xff\xee..Adobe")
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA
_JPEG_IN_SCAN = {0x00, *range(0xD0, 0xD8)}


def without_metadata(kind: str, data: bytes) -> bytes:
    """The file without metadata; `kind` is one of KINDS. Raises ValueError for a file that is malformed."""
    if kind == "JPEG":
        return b"\xff\xd8" + b"".join(_jpeg_parts(data)) + b"\xff\xd9"
    if kind == "PNG":
        return _PNG_SIGNATURE + b"".join(_png_chunks(data))
    chunks = b"".join(_webp_chunks(data))
    return b"RIFF" + (len(chunks) + 4).to_bytes(4, "little") + b"WEBP" + chunks


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
        if marker not in _JPEG_METADATA or _is_needed(data[at : at + 16]):
            yield data[at:end]
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


def _is_needed(start: bytes) -> bool:
    """Whether a segment has the color profile, or says how the colors are stored."""
    return any(start[:2] == needed[:2] and start[4:].startswith(needed[4:]) for needed in _JPEG_NEEDED)


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at, name = len(_PNG_SIGNATURE), b""
    while name != b"IEND":
        name = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data) or len(name) < 4:
            raise ValueError("the PNG has no end")
        if name in _PNG_CHUNKS:
            yield data[at:end]
        at = end


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    at, end_of_file = 12, min(8 + int.from_bytes(data[4:8], "little"), len(data))
    while at + 8 <= end_of_file:
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunk = data[at : at + 8 + size + size % 2]
        at += len(chunk)
        if name == b"VP8X":
            yield chunk[:8] + bytes([chunk[8] & ~_WEBP_EXIF_AND_XMP]) + chunk[9:]
        elif name in _WEBP_CHUNKS:
            yield chunk
