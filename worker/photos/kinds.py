"""Which kind of file a photo is, by its first bytes; name and content type do not count."""

from __future__ import annotations

import re
import struct

SUPPORTED = "use JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF"

_STARTS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_OTHERS = {
    b"%PDF": "a PDF",
    b"\x1aE\xdf\xa3": "a video",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_WEB_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?<(?:!doctype\s+html|html|head|body|title|script|meta|!--)",
    re.IGNORECASE,
)
_TEXT_BYTES = 2048
"""How many bytes are searched for the start of a web page or a drawing: megabytes of spaces would block the
event loop."""


def kind_of(data: bytes) -> str:
    """Pillow's name of the format: JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF or HEIF.

    Raises ValueError that says what the file is instead.
    """
    for start, kind in _STARTS.items():
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _iso_kind(data)
    raise ValueError(_what(data[:_TEXT_BYTES]))


def _iso_kind(data: bytes) -> str:
    """Decide by the major brand, or by the compatible brands if it is generic (`mif1`, `msf1`)."""
    brands = {data[at : at + 4] for at in range(8, min(int.from_bytes(data[:4], "big"), 1024), 4)}
    major = data[8:12]
    if major in _AVIF_BRANDS or (major in _HEIF_BRANDS and brands & _AVIF_BRANDS):
        return "AVIF"
    if major in _HEIF_BRANDS:
        return "HEIF"
    raise ValueError(f"is a video; {SUPPORTED}")


def is_complete(kind: str, data: bytes) -> bool:
    """False if a HEIF or AVIF file ends within a box: their decoders fill up what is missing."""
    if kind not in ("HEIF", "AVIF"):
        return True
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:  # up to the end of the file
            return True
        if size < 8:
            return False
        at += size
    return at == len(data)


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP file; raises ValueError.

    Reads the first chunk only: Pillow parses all of them, 20 ms for 7 MB of tiny frames.
    Source: RFC 9649, 2.5 to 2.7 (containers) and 3.4 (VP8L); RFC 6386, 9.1 (VP8).
    """
    if len(data) < 30 or int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise ValueError("the WebP file is incomplete")
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L" and data[20] == 0x2F:
        sizes = int.from_bytes(data[21:25], "little")
        width, height = (sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError("the image's header is invalid")
    return width, height


def _what(start: bytes) -> str:
    """What a file is instead of a photo, by its first bytes."""
    for signature, kind in _OTHERS.items():
        if start.startswith(signature):
            return f"is {kind}; {SUPPORTED}"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return f"is a video; {SUPPORTED}"
    if b"<svg" in start:
        return f"is an SVG drawing; {SUPPORTED}"
    if _WEB_PAGE.match(start):
        return "is a web page, not a photo, as share links often are; use the photo's own URL"
    return f"is not a photo; {SUPPORTED}"
