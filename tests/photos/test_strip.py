"""Which metadata is removed from a file whose pixels are not encoded again."""

from __future__ import annotations

import io
import zlib

import pytest
from PIL import Image

from worker.photos.strip import without_metadata

HEADER_BYTES = 33
"""A PNG's signature and its IHDR."""


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("name", "size"), [(b"gAMA", 4), (b"cHRM", 32), (b"sRGB", 1), (b"sBIT", 3), (b"cICP", 4)]
)
def test_a_pngs_color_numbers_stay_and_a_text_in_their_place_goes(name: bytes, size: int) -> None:
    """The numbers are needed to show the colors; a longer chunk contains something else, and is removed."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(out, "PNG")
    data = out.getvalue()
    number, text = chunk(name, bytes(size)), chunk(name, b"taken at the home of the person shown")
    for added, kept in ((number, True), (text, False)):
        stripped = without_metadata("PNG", data[:HEADER_BYTES] + added + data[HEADER_BYTES:])
        assert (added in stripped) == kept
        assert stripped.replace(added, b"") == data
