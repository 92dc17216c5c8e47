"""The type and size of a photo come from its bytes, cheaply, and nothing else passes."""

import struct
import time
import zlib
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from worker.image_format import ImageInfo, TooManyPixels, inspect

MIME_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def encoded(kind: str, width: int = 64, height: int = 48, **options: object) -> bytes:
    out = BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((width, height)).save(out, kind, **options)
    return out.getvalue()


SAMPLES = {kind: encoded(kind) for kind in MIME_TYPES}


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *extra: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + png_chunk(b"IDAT", zlib.compress(b"\0"))


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + b"\0\0\0\0" + b"".join(compatible)
    return struct.pack(">I", len(body) + 4) + body + b"\0" * 64


def webp_canvas(width: int, height: int) -> bytes:
    frame = SAMPLES["WEBP"][12:]
    head = b"\0\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", len(head)) + head + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("kind", MIME_TYPES)
def test_type_and_size(kind: str) -> None:
    """What an encoder wrote is named with its type and its size in pixels."""
    assert inspect(SAMPLES[kind]) == ImageInfo(MIME_TYPES[kind], 64, 48)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (64, 48), (300, 1), (1, 16383)])
@pytest.mark.parametrize("frames", [1, 3])
def test_every_kind_of_webp(lossless: bool, size: tuple[int, int], frames: int) -> None:
    """Lossy, lossless, with transparency and animated ones are told as Pillow tells them."""
    for mode in ("RGB", "RGBA"):
        pictures = [Image.new(mode, size, (number * 80, 0, 0)) for number in range(frames)]
        out = BytesIO()
        pictures[0].save(out, "WEBP", lossless=lossless, save_all=frames > 1, append_images=pictures[1:])
        assert inspect(out.getvalue()) == ImageInfo("image/webp", *size)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (encoded("GIF"), "a GIF"),
        (encoded("TIFF"), "a TIFF"),
        (encoded("BMP"), "a BMP"),
        (b"%PDF-1.7", "a PDF"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (ftyp(b"avif", b"mif1"), "an AVIF"),
        (b"hello", "not a photo"),
    ],
)
def test_a_type_that_is_not_taken_is_named_beside_those_that_are(data: bytes, kind: str) -> None:
    """Who orders with a type that is not taken learns which one it is, and which ones to save it as."""
    with pytest.raises(ValueError, match=f"the file is {kind}.*; use JPEG, PNG, WebP, HEIC or HEIF"):
        inspect(data)


def test_progressive_jpeg_with_metadata() -> None:
    """Metadata before the frame, however much a phone writes, does not hide the size."""
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    data = encoded("JPEG", progressive=True, exif=exif, icc_profile=b"p" * 400_000, comment="c" * 60_000)
    assert inspect(data) == ImageInfo("image/jpeg", 64, 48)


def test_png_with_large_text() -> None:
    """Chunks between header and pixels are skipped."""
    data = png(7, 9, *[png_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 1_000_000))] * 100)
    assert inspect(data) == ImageInfo("image/png", 7, 9)


@pytest.mark.parametrize(
    ("data", "mime_type"),
    [
        *((ftyp(brand), "image/heic") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc")),
        (ftyp(b"mif1", b"mif1", b"heic"), "image/heic"),
        (ftyp(b"mif1", b"mif1", b"miaf"), "image/heif"),
        (ftyp(b"msf1"), "image/heif"),
    ],
)
def test_heif_by_brand(data: bytes, mime_type: str) -> None:
    """HEIC and HEIF are told by their brands; their size is not read."""
    assert inspect(data) == ImageInfo(mime_type, 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!doctype html><title>Not found</title>",
        b"GIF89a" + b"\0" * 100,
        b"%PDF-1.7",
        b"II*\0" + b"\0" * 100,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        ftyp(b"avif", b"mif1"),
        ftyp(b"mif1", b"avif", b"mif1"),
        ftyp(b"mp42", b"isom"),
        ftyp(b"heic")[:15],
        b"\0\0\0\x04ftypheic" + b"\0" * 20,
        SAMPLES["JPEG"][:100],
        SAMPLES["PNG"][:30],
        SAMPLES["WEBP"][:24],
        SAMPLES["WEBP"][:-1],
        SAMPLES["WEBP"][:12] + b"VP8 " + b"\0" * 500,
        SAMPLES["WEBP"][:12] + b"ANMF" + b"\0" * 500,
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xda\0\x02",
        png(0, 5),
        png(5, 0),
        b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
    ],
)
def test_refused(data: bytes) -> None:
    """What is no photo of a type that Gemini takes, or is truncated, is refused with a readable reason."""
    with pytest.raises(ValueError, match=r"[a-z ]{12}"):
        inspect(data)


@pytest.mark.parametrize("data", [png(10_001, 5_000), png(60_000, 60_000), webp_canvas(16_000, 16_000)])
def test_decompression_bomb(data: bytes) -> None:
    """A header that announces more than 50 megapixels is refused, naming the limit."""
    with pytest.raises(TooManyPixels, match="50 megapixels"):
        inspect(data)


def test_fifty_megapixels_pass() -> None:
    """The limit itself is allowed."""
    assert inspect(png(10_000, 5_000)) == ImageInfo("image/png", 10_000, 5_000)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xe3\0\x02" * 1_700_000,
        b"\xff\xd8" + b"\xff" * 7_000_000,
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0tEXt\0\0\0\0" * 580_000,
    ],
    ids=["jpeg segments", "jpeg fill bytes", "png chunks"],
)
def test_header_without_end(data: bytes) -> None:
    """7 MB of empty header parts cost no processor time: reading them all would take seconds."""
    before = time.process_time()
    with pytest.raises(ValueError, match="is too long"):
        inspect(data)
    assert time.process_time() - before < 0.5


def test_an_animation_of_many_frames() -> None:
    """7 MB of tiny frames cost no processor time: a user's photos may all be such, and arrive at once."""
    out = BytesIO()
    Image.new("RGB", (16, 16)).save(
        out, "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (16, 16), "red")]
    )
    head, _, frame = out.getvalue().rpartition(b"ANMF")
    body = head[8:] + (b"ANMF" + frame) * (7_000_000 // (len(frame) + 4))
    data = b"RIFF" + struct.pack("<I", len(body)) + body
    before = time.process_time()
    assert {inspect(data) for _ in range(14)} == {ImageInfo("image/webp", 16, 16)}
    assert time.process_time() - before < 0.05


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(sorted(SAMPLES)),
    cut=st.integers(min_value=0, max_value=2_000),
    at=st.integers(min_value=0, max_value=60),
    patch=st.binary(max_size=8),
)
def test_only_value_errors(kind: str, cut: int, at: int, patch: bytes) -> None:
    """Damaged photos are either read or refused with ValueError, whatever is broken about them."""
    data = SAMPLES[kind][:cut]
    try:
        info = inspect(data[:at] + patch + data[at + len(patch) :])
    except ValueError:
        return
    assert 0 < info.width * info.height <= 50_000_000
