"""One photo from bytes to bytes: cut, mutated and enormous files, the size of the result, and `off`."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some
from PIL import Image

from tests.support.hostile_files import png_of
from tests.support.photo_files import (
    CORNERS,
    PHOTOS,
    SAMPLES,
    SECRET,
    animated,
    exif,
    is_close,
    marked,
    profile,
    saved,
    scan_by_scan,
    sideways,
)
from worker.photos.decode import MAX_PIXELS, Limits, Prepared, Source, Unusable
from worker.photos.kinds import kind_of

MEMORY = 448 * 1024 * 1024
USUAL = Limits(2048, 5_000_000)
KEPT = Limits(None, 5_000_000)

WHOLE: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: saved(marked(), "JPEG", exif=exif()),
    "progressive": lambda: saved(marked(), "JPEG", progressive=True),
    "PNG": lambda: saved(marked(), "PNG"),
    "WEBP": lambda: saved(marked(), "WEBP", exif=exif()),
    "lossy": lambda: saved(marked(), "WEBP", lossless=False),
    "GIF": lambda: saved(marked(), "GIF"),
    "BMP": lambda: saved(marked(), "BMP"),
    "TIFF": lambda: saved(marked(), "TIFF", compression="tiff_lzw"),
    "AVIF": lambda: saved(marked(), "AVIF"),
    "HEIF": (SAMPLES / "rgb-8.heif").read_bytes,
}


# The memory counted for the JPEG on stdin, and how much more than before the process needs at its height.
PEAK = """
import re, sys
from pathlib import Path
from worker.photos.decode import Limits, Source

def height():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

source = Source("JPEG", sys.stdin.buffer.read(), Limits(256, 5_000_000), 448 * 1024 * 1024)
before = height()
source.prepare()
print(source.memory, height() - before)
"""


@cache
def file_of(kind: str) -> bytes:
    """A whole file, made when it is first needed."""
    return WHOLE[kind]()


def prepared(data: bytes, limits: Limits = USUAL, memory: int = MEMORY) -> Prepared:
    """The prepared photo of a file."""
    return Source(kind_of(data), data, limits, memory).prepare()


def picture(made: Prepared) -> Image.Image:
    """The prepared photo, decoded."""
    image = Image.open(io.BytesIO(made.data), formats=(made.mime_type.removeprefix("image/").upper(),))
    image.load()
    assert image.size == (made.width, made.height)
    return image


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of Pillow about damaged EXIF
@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_file_that_breaks_off_is_damaged(kind: str, tenth: int) -> None:
    """At every tenth of its length; the reason says so in words."""
    whole = file_of(kind)
    with pytest.raises(Unusable) as caught:
        prepared(whole[: len(whole) * tenth // 10])
    assert caught.value.code == "photo_damaged"
    assert caught.value.reason.startswith("is damaged: it")


LOADED = """
import sys
from worker.photos.decode import Limits, Source
from worker.photos.kinds import kind_of

data = sys.stdin.buffer.read()
Source(kind_of(data), data, Limits(2048, 5_000_000), 400_000_000).prepare()
print(*(name.removeprefix("PIL.").removesuffix("ImagePlugin") for name in sys.modules
        if name.endswith("ImagePlugin") or name == "pi_heif"))
"""
ALWAYS = {"Bmp", "Gif", "Jpeg", "Ppm", "Png"}
"""What Pillow loads for any image. TIFF's plugin also reads EXIF."""


@pytest.mark.parametrize(
    ("kind", "own"), [("JPEG", ""), ("TIFF", ""), ("WEBP", "WebP"), ("AVIF", "Avif"), ("HEIF", "pi_heif")]
)
def test_a_photo_is_read_by_the_library_of_its_own_kind_alone(kind: str, own: str) -> None:
    """A decoder that gets no HEIC or AVIF starts faster, and no file reaches a format that nobody takes."""
    command = [sys.executable, "-W", "ignore", "-c", LOADED]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, input=file_of(kind), capture_output=True, check=True, timeout=60)
    assert {*done.stdout.decode().split(), "Tiff"} == {*ALWAYS, "Tiff", *own.split()}


def tiff_of_one_large_tile() -> bytes:
    """64 x 64 pixels in one tile of 23 008 x 23 008, which has to be decoded as a whole: 500 MB."""
    tile = zlib.compress(bytes(1000))
    tags = {
        256: 64,
        257: 64,
        258: 8,
        259: 8,
        262: 1,
        277: 1,
        322: 23_008,
        323: 23_008,
        324: 8,
        325: len(tile),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    ifd = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + ifd


def test_a_photo_of_a_hundred_megapixels_is_prepared() -> None:
    made = prepared(saved(Image.new("L", (10_000, 9_990), 90), "JPEG"))
    assert (made.width, made.height) == (2048, 2046)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            lambda: png_of(10_001, 10_000),
            "10001 x 10000 pixels; the limit .* 100 mega",
        ),
        (lambda: saved(Image.new("1", (20_000, 2_000)), "TIFF"), None),
        (tiff_of_one_large_tile, "64 x 64 pixels; the limit"),
        (
            lambda: saved(Image.new("1", (30_000, 2_000)), "TIFF"),
            "30000 x 2000 pixels; the limit .* 53 mega",
        ),
    ],
)
def test_more_pixels_than_fit_into_memory_are_refused_before_they_are_decoded(
    data: Callable[[], bytes], said: str | None
) -> None:
    if said is None:
        assert prepared(data()).width == 2000
        return
    with pytest.raises(Unusable, match=said) as caught:
        prepared(data())
    assert caught.value.code == "photo_too_large"
    assert MAX_PIXELS == 100_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's account of the process's memory")
def test_a_jpeg_of_several_scans_takes_no_more_memory_than_was_counted() -> None:
    """Its decoder keeps the coefficients of all of them, whether it is progressive or not."""
    data = scan_by_scan(2400)
    command = [sys.executable, "-c", PEAK]
    done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=60)
    counted, peak = map(int, done.stdout.split())
    assert 2400 * 2400 * 8 < peak < counted


def test_the_previews_of_a_jpeg_do_not_count_as_its_scans() -> None:
    photo = saved(marked((2000, 2000)), "JPEG")
    preview = saved(Image.new("L", (160, 120)), "JPEG")
    segment = b"\xff\xe2" + (len(preview) + 2).to_bytes(2, "big") + preview
    sources = [Source("JPEG", data, USUAL, MEMORY) for data in (photo, photo[:2] + segment + photo[2:])]
    assert sources[0].memory == sources[1].memory


def test_a_photo_has_at_most_the_bytes_that_fit_into_a_request() -> None:
    """Noise does not compress: its quality is lowered, and then its size."""
    noise = saved(Image.effect_noise((512, 512), 100), "PNG")
    best = prepared(noise)
    found = {part: prepared(noise, Limits(2048, round(len(best.data) * part))) for part in (0.6, 0.05)}
    assert all(len(made.data) <= len(best.data) * part for part, made in found.items())
    assert (best.width, found[0.6].width, found[0.05].width) == (512, 512, 128)


def test_off_encodes_again_a_file_of_more_bytes_than_fit_into_a_request() -> None:
    """Its pixels stay as many."""
    noise = saved(Image.effect_noise((512, 512), 100), "PNG")
    made = prepared(noise, Limits(None, len(noise) - 1))
    assert (len(made.data) < len(noise), made.mime_type, made.width) == (True, "image/jpeg", 512)


def animation_of_one_frame() -> bytes:
    """A WebP that says it is animated, with its first frame alone."""
    data = animated("WEBP")
    data = data[: data.rindex(b"ANMF")]
    return data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]


def end_before_the_photo() -> bytes:
    """A JPEG that says at once that it ends."""
    return file_of("JPEG")[:2] + b"\xff\xd9" + file_of("JPEG")


@pytest.mark.parametrize("make", [animation_of_one_frame, end_before_the_photo])
def test_off_encodes_again_what_without_its_metadata_would_be_another_picture(
    make: Callable[[], bytes],
) -> None:
    """Pillow reads more than a file that follows its format."""
    image = picture(prepared(make(), KEPT))
    assert image.size == (96, 64)
    assert all(is_close(image, place, color) for place, color in CORNERS.items())


@pytest.mark.parametrize(("limits", "passes"), [(USUAL, True), (KEPT, False)])
def test_off_takes_fewer_pixels_because_it_keeps_them_all(limits: Limits, passes: bool) -> None:
    """48 megapixels are made smaller while they are decoded, but are too many at their full size."""
    data = saved(Image.new("L", (8064, 6048), 90), "JPEG")
    if passes:
        assert prepared(data, limits).width == 2016
        return
    with pytest.raises(Unusable, match="has 8064 x 6048 pixels; the limit for such a file is 35 megapixels"):
        prepared(data, limits)


def test_drawings_are_sent_as_png_and_photographs_as_jpeg() -> None:
    """Whichever is smaller."""
    assert prepared(saved(marked((800, 600)), "BMP")).mime_type == "image/png"
    assert prepared(saved(Image.effect_noise((800, 600), 60).convert("RGB"), "PNG")).mime_type == "image/jpeg"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_off_keeps_the_pixels_bytes_and_drops_the_metadata(kind: str) -> None:
    """sRGB's color profile is dropped too: a profile may contain any text, and sRGB is the default."""
    options = (
        {"comment": SECRET.encode()} if kind == "JPEG" else {"xmp": SECRET.encode()} if kind == "WEBP" else {}
    )
    name, secret = ("sRGB built-in".encode("utf-16-be"), SECRET[:13].encode("utf-16-be"))
    srgb = profile(b"rXYZ", b"gXYZ").replace(name, secret)
    assert secret in srgb
    original = saved(marked((1200, 800)), kind, exif=exif(), icc_profile=srgb, **options) + SECRET.encode()
    plain = saved(marked((1200, 800)), kind)
    made = prepared(original, KEPT)
    image = picture(made)
    assert made.mime_type == f"image/{kind.lower()}" and "icc_profile" not in image.info
    assert image.tobytes() == Image.open(io.BytesIO(plain)).tobytes()
    assert not any(each in made.data for each in (SECRET.encode(), secret)) and not image.getexif()
    assert len(made.data) <= len(plain) + 18  # a WebP keeps the header that says what else is in it


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_off_converts_a_photo_with_another_color_profile(kind: str) -> None:
    """A profile is never sent; here it exchanges red and green."""
    image = picture(prepared(saved(marked((1200, 800)), kind, icc_profile=profile()), KEPT))
    assert image.size == (1200, 800) and "icc_profile" not in image.info
    assert is_close(image, (0.1, 0.1), (20, 230, 20)) and is_close(image, (0.9, 0.1), (200, 20, 20))


def test_off_keeps_how_a_jpeg_stores_its_colors_and_nothing_else_of_that_segment() -> None:
    """Adobe's segment distinguishes RGB from YCbCr; anything that a program added to it is removed."""
    plain = saved(marked(), "JPEG", keep_rgb=True)
    at = plain.index(b"\xff\xee\x00\x0eAdobe")
    text = SECRET.encode()
    length = (14 + len(text)).to_bytes(2, "big")
    made = prepared(plain[: at + 2] + length + plain[at + 4 : at + 16] + text + plain[at + 16 :], KEPT)
    assert SECRET.encode() not in made.data and made.data.count(b"Adobe") == 1
    assert picture(made).tobytes() == Image.open(io.BytesIO(plain)).tobytes()


@pytest.mark.parametrize("marker", [0x02, 0xDC, 0xDE, 0xF0, 0xFD, 0xFE])
def test_off_keeps_only_the_segments_that_a_jpegs_pixels_need(marker: int) -> None:
    """A segment that Pillow skips may have any text."""
    plain, text = saved(marked(), "JPEG"), SECRET.encode()
    segment = bytes([0xFF, marker]) + (len(text) + 2).to_bytes(2, "big") + text
    try:
        made = prepared(plain[:2] + segment + plain[2:], KEPT)
    except Unusable:
        return  # Pillow does not read it at all
    assert text not in made.data
    assert picture(made).tobytes() == Image.open(io.BytesIO(plain)).tobytes()


@pytest.mark.parametrize("name", ["orientation-6.jpg", "cmyk.jpg", "moving.webp", "eight.heic", "long.png"])
def test_off_encodes_again_what_a_model_cannot_read_as_it_is(name: str) -> None:
    """At its full size."""
    make, size, colors = PHOTOS[name]
    image = picture(prepared(make(), KEPT))
    assert image.mode == "RGB" and not image.getexif() and getattr(image, "n_frames", 1) == 1
    assert image.size == ((300, 9000) if name == "long.png" else size)
    assert all(is_close(image, place, color) for place, color in colors.items())


@settings(max_examples=40)
@given(
    kind=some.sampled_from(["JPEG", "PNG"]),
    width=some.integers(1, 20_000),
    height=some.integers(1, 300),
    edge=some.integers(512, 4096),
)
@example(kind="JPEG", width=4032, height=300, edge=2048)
@example(kind="JPEG", width=3840, height=216, edge=2048)
@example(kind="PNG", width=3600, height=200, edge=2048)
@example(kind="JPEG", width=5000, height=1, edge=2048)
@example(kind="JPEG", width=4353, height=17, edge=512)
def test_a_larger_photo_gets_nine_tenths_of_the_edge_or_more(
    kind: str, width: int, height: int, edge: int
) -> None:
    """Never more than the edge; a smaller photo keeps its size."""
    made = prepared(saved(Image.new("L", (width, height), 90), kind), Limits(edge, 5_000_000))
    if max(width, height) <= edge:
        assert (made.width, made.height) == (width, height)
    else:
        assert 0.9 * edge <= max(made.width, made.height) <= edge
        # Decoding at a part of the size rounds up, and scaling rounds once more.
        assert made.height == pytest.approx(made.width * height / width, abs=1.5)


@pytest.mark.parametrize("edge", [512, 1000, None])
@pytest.mark.parametrize("name", ["iphone.heic", "stereo.mpo", "moving.webp", "pages.tif"])
def test_a_file_of_several_images_is_its_first_at_any_size(name: str, edge: int | None) -> None:
    """The first image is used even if it has to be scaled down slightly."""
    make, (width, height), _ = PHOTOS[name]
    made = prepared(make(), Limits(edge, 5_000_000))
    scale = min((edge or width) / width, 1)
    assert (made.width, made.height) == pytest.approx((width * scale, height * scale), abs=1)


@pytest.mark.parametrize("edge", [512, 1000, 4096])
def test_the_long_edge_is_the_settings(edge: int) -> None:
    made = prepared(
        sideways(6) if edge == 4096 else saved(marked((3000, 5000)), "JPEG"), Limits(edge, 5_000_000)
    )
    assert max(made.width, made.height) == (96 if edge == 4096 else edge)
    assert all(is_close(picture(made), place, color) for place, color in CORNERS.items())
