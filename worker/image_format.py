"""Reads the type and size of a photo from its header.

Ignores the file name and the server's content type, and never decodes pixels.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from io import BytesIO

MAX_PIXELS = 50_000_000
_LIMIT = f"{MAX_PIXELS / 1e6:g} megapixels"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Pillow parses a header segment by segment in Python: 7 MB of empty JPEG segments took 2.4 s and 270 MB
# (measured, Pillow 13). A real photo has a few dozen segments, about 110 with extended XMP in 64 kB pieces.
_MAX_HEADER_PARTS = 2_000
_JPEG_STANDALONE = {0x00, 0x01, *range(0xD0, 0xD9)}
_JPEG_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9

_SUPPORTED = "use JPEG, PNG, WebP, HEIC or HEIF"
_OTHER_TYPES = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc"}
_HEIF_BRANDS = {b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Type and size; width and height in pixels, 0 x 0 for HEIC and HEIF, which are not parsed."""

    mime_type: str
    width: int
    height: int


class TooManyPixels(ValueError):
    """The header states more than `MAX_PIXELS`: decoding such a file would exhaust memory."""


def inspect(data: bytes) -> ImageInfo:
    """Read type and size of a photo of a type that Gemini accepts: PNG, JPEG, WEBP, HEIC or HEIF.

    Raises ValueError with a readable reason for everything else: another type, a truncated header, no pixels,
    or (`TooManyPixels`) more than 50 megapixels.
    Source of the types: Gemini API, "Image understanding", supported image formats.
    """
    if not data:
        raise ValueError("the file is empty")
    if data[4:8] == b"ftyp":
        return ImageInfo(_heif_type(data), 0, 0)
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    info = ImageInfo("image/webp", *webp_size(data)) if webp else _read_with_pillow(_frame_header(data))
    if info.width < 1 or info.height < 1:
        raise ValueError(f"the image has no pixels ({info.width} x {info.height})")
    if info.width * info.height > MAX_PIXELS:
        raise TooManyPixels(f"{info.width} x {info.height} pixels exceed the limit of {_LIMIT}")
    return info


def _heif_type(data: bytes) -> str:
    """Decide by the major brand, or by the compatible brands if it is generic (`mif1`, `msf1`)."""
    size = int.from_bytes(data[:4], "big")
    if size < 16 or size > len(data):
        raise ValueError("the file ends within its header")
    major = data[8:12]
    compatible = {data[at : at + 4] for at in range(16, min(size, 1024), 4)}
    if major in _HEIC_BRANDS or (major in _HEIF_BRANDS and compatible & _HEIC_BRANDS):
        return "image/heic"
    if major in _HEIF_BRANDS and not compatible & _AVIF_BRANDS:
        return "image/heif"
    raise ValueError(f"the file is an AVIF image or a video; {_SUPPORTED}")


def _frame_header(data: bytes) -> bytes:
    """Extract the parts that give type and size, so that the parser never sees metadata."""
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_frame_header(data)
    if data.startswith(PNG_SIGNATURE):
        return _png_frame_header(data)
    for start, kind in _OTHER_TYPES.items():
        if data.startswith(start):
            raise ValueError(f"the file is {kind}; {_SUPPORTED}")
    if b"<svg" in data[:2048]:
        raise ValueError(f"the file is an SVG drawing; {_SUPPORTED}")
    raise ValueError(f"the file is not a photo; {_SUPPORTED}")


def _jpeg_frame_header(data: bytes) -> bytes:
    frame = b""
    at = 2
    for _ in range(_MAX_HEADER_PARTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data) or data[at + 1] == _JPEG_END:
            raise ValueError("the JPEG ends within its header")
        marker, size = struct.unpack_from(">xBH", data, at)
        if marker == _JPEG_SCAN:
            return data[:2] + frame + data[at : at + 2 + size]
        if marker == 0xFF or marker in _JPEG_STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _JPEG_FRAME:
            frame = data[at : at + 2 + size]
        at += 2 + size
    raise ValueError("the JPEG's header is too long")


def _png_frame_header(data: bytes) -> bytes:
    at = after_header = len(PNG_SIGNATURE) + 25  # IHDR: 13 bytes within length, name and checksum
    for _ in range(_MAX_HEADER_PARTS):
        if at + 8 > len(data):
            raise ValueError("the PNG ends within its header")
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            return data[:after_header] + data[at : at + 8]
        at += size + 12
    raise ValueError("the PNG's header is too long")


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


def _read_with_pillow(header: bytes) -> ImageInfo:
    from PIL import Image  # takes 60 ms; an idle run does not need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(header), formats=("JPEG", "PNG")) as image:
                return ImageInfo(Image.MIME[image.format or ""], *image.size)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise TooManyPixels(f"the image exceeds the limit of {_LIMIT}") from exc
    except (OSError, SyntaxError, ValueError, KeyError, OverflowError, struct.error) as exc:
        raise ValueError("the image's header is invalid") from exc
