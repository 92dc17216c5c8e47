"""What is read from a photo before it is decoded."""

import struct
import time
from io import BytesIO

import pytest
from PIL import Image

from worker.photos.kinds import kind_of, webp_size


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (64, 48), (300, 1), (1, 16383)])
@pytest.mark.parametrize("frames", [1, 3])
def test_webp_size_reads_every_kind_of_webp(lossless: bool, size: tuple[int, int], frames: int) -> None:
    """Lossy, lossless, transparent and animated files have the size that Pillow wrote."""
    for mode in ("RGB", "RGBA"):
        pictures = [Image.new(mode, size, (number * 80, 0, 0)) for number in range(frames)]
        out = BytesIO()
        pictures[0].save(out, "WEBP", lossless=lossless, save_all=frames > 1, append_images=pictures[1:])
        assert webp_size(out.getvalue()) == size


def test_webp_size_refuses_a_file_that_is_cut_or_has_no_frame() -> None:
    """The size of a damaged file is not guessed."""
    out = BytesIO()
    Image.new("RGB", (64, 48)).save(out, "WEBP")
    whole = out.getvalue()
    for damaged in (
        whole[:24],
        whole[:-1],
        whole[:12] + b"VP8 " + b"\0" * 500,
        whole[:12] + b"ANMF" + b"\0" * 500,
    ):
        with pytest.raises(ValueError, match=r"incomplete|invalid"):
            webp_size(damaged)


def test_webp_size_of_an_animation_reads_only_its_first_chunk() -> None:
    """7 MB of tiny frames cost no processor time; all photos of a user may be such files."""
    out = BytesIO()
    Image.new("RGB", (16, 16)).save(
        out, "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", (16, 16), "red")]
    )
    head, _, frame = out.getvalue().rpartition(b"ANMF")
    body = head[8:] + (b"ANMF" + frame) * (7_000_000 // (len(frame) + 4))
    data = b"RIFF" + struct.pack("<I", len(body)) + body
    before = time.process_time()
    assert {webp_size(data) for _ in range(14)} == {(16, 16)}
    assert time.process_time() - before < 0.05


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        (("avif", "mif1"), "AVIF"),
        (("mif1", "avif", "miaf"), "AVIF"),
        (("mif1", "heic"), "HEIF"),
        (("heic", "mif1"), "HEIF"),
    ],
)
def test_a_general_brand_leaves_the_kind_to_the_others(brands: tuple[str, ...], kind: str) -> None:
    """Several encoders of AVIF name `mif1` first, which HEIC has too."""
    major, *compatible = (brand.encode() for brand in brands)
    box = b"ftyp" + major + bytes(4) + b"".join([major, *compatible])
    assert kind_of((len(box) + 4).to_bytes(4, "big") + box) == kind


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"%PDF-1.7\n", "is a PDF; use JPEG"),
        (b"RIFF\0\0\0\0AVI LIST", "is a video; use JPEG"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "is a video; use JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing; use JPEG"),
        (b"<!doctype html><html>", "is a web page, not a photo"),
        (b"hello", "is not a photo; use JPEG"),
    ],
)
def test_a_file_that_is_no_photo_is_called_what_it_is(data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        kind_of(data)
