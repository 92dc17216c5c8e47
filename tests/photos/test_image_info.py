"""The type and size of a generated image come from its bytes, and nothing but a usable image passes."""

import struct
import zlib
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from worker.photos.image_info import ImageInfo, inspect

MIME_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def encoded(kind: str, **options: object) -> bytes:
    out = BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((64, 48)).save(out, kind, **options)
    return out.getvalue()


SAMPLES = {kind: encoded(kind) for kind in MIME_TYPES}


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0"))


@pytest.mark.parametrize("kind", MIME_TYPES)
def test_type_and_size_are_those_of_the_bytes(kind: str) -> None:
    """This holds for every format that an encoder writes."""
    assert inspect(SAMPLES[kind]) == ImageInfo(MIME_TYPES[kind], 64, 48)


def test_metadata_before_the_pixels_does_not_hide_the_size() -> None:
    """Generated images carry provenance data, which may be large."""
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    data = encoded("JPEG", progressive=True, exif=exif, icc_profile=b"p" * 400_000, comment="c" * 60_000)
    assert inspect(data) == ImageInfo("image/jpeg", 64, 48)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!doctype html><title>Not found</title>",
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded("GIF"),
        encoded("TIFF"),
        encoded("BMP"),
        encoded("AVIF"),
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64,
        SAMPLES["JPEG"][:100],
        SAMPLES["PNG"][:30],
        SAMPLES["WEBP"][:24],
        SAMPLES["WEBP"][:12] + b"VP8 " + b"\0" * 500,
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xda\0\x02",
        png(0, 5),
        png(5, 0),
        b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
    ],
)
def test_anything_but_a_jpeg_png_or_webp_with_pixels_is_refused(data: bytes) -> None:
    """The bucket takes no other type, and a damaged header is no image."""
    with pytest.raises(ValueError, match="header is invalid"):
        inspect(data)


@pytest.mark.parametrize("data", [png(10_001, 5_000), png(60_000, 60_000)])
def test_more_than_fifty_megapixels_are_refused(data: bytes) -> None:
    """An image that states such a size cannot be shown."""
    with pytest.raises(ValueError, match="pixels"):
        inspect(data)


def test_fifty_megapixels_pass() -> None:
    """The limit itself is allowed."""
    assert inspect(png(10_000, 5_000)) == ImageInfo("image/png", 10_000, 5_000)


@settings(max_examples=200)
@given(
    kind=st.sampled_from(sorted(SAMPLES)),
    cut=st.integers(min_value=0, max_value=2_000),
    at=st.integers(min_value=0, max_value=60),
    patch=st.binary(max_size=8),
)
def test_a_damaged_image_raises_nothing_but_value_error(kind: str, cut: int, at: int, patch: bytes) -> None:
    """A damaged image either raises ValueError or can still be read."""
    data = SAMPLES[kind][:cut]
    try:
        info = inspect(data[:at] + patch + data[at + len(patch) :])
    except ValueError:
        return
    assert 0 < info.width * info.height <= 50_000_000
