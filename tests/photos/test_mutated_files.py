"""Whatever is in a file, the decoder prepares it or refuses it in words, within its memory and its time."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from PIL import Image

from tests.support.photo_files import PHOTOS, SAMPLES
from worker.errors import BadInput
from worker.jobs import Photo
from worker.photos.kinds import kind_of
from worker.photos.prepare import MAX_PREPARED_BYTES, PhotoPreparer

EDGE = 2048
LARGE = {"large.jpg", "long.png", "progressive.jpg", "see-through-and-large.png"}
FILES = {name: make() for name, (make, _, _) in PHOTOS.items() if name not in LARGE}
CODES = {"photo_not_an_image", "photo_damaged", "photo_too_large"}
Prepare = Callable[[bytes], Photo]


@pytest.fixture(scope="module", params=[EDGE, None], ids=["2048", "off"])
def edge(request: pytest.FixtureRequest) -> int | None:
    """What `PHOTO_MAX_EDGE` says."""
    return cast("int | None", request.param)


@pytest.fixture(scope="module")
def prepare(edge: int | None) -> Iterator[Prepare]:
    """Prepares photos one after the other, as a worker does."""
    preparer = PhotoPreparer(edge, time.monotonic)
    with asyncio.Runner() as runner:
        yield lambda data: runner.run(preparer.prepare(data, "user", "me.jpg"))
        runner.run(preparer.close())


def test_files_of_every_kind_are_mutated() -> None:
    kinds = {kind_of(data) for data in FILES.values()}
    assert kinds == {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"}


@given(
    name=some.sampled_from(sorted(FILES)),
    at=some.floats(0, 1, exclude_max=True),
    bytes_there=some.binary(min_size=1, max_size=8),
    cut=some.booleans(),
)
@example(name="grey.jpg", at=0.0, bytes_there=b"\xff\xd8\xff", cut=True)
def test_a_mutated_file_is_prepared_or_refused_in_words(
    prepare: Prepare, edge: int | None, name: str, at: float, bytes_there: bytes, cut: bool
) -> None:
    """Never another error: a decoder that fails, or that needs more memory or time, is another."""
    whole = FILES[name]
    start = int(at * len(whole))
    data = whole[:start] + bytes_there + (b"" if cut else whole[start + len(bytes_there) :])
    try:
        made = prepare(data)
    except BadInput as error:
        assert error.code in CODES and error.message.startswith(
            ("me.jpg is ", "me.jpg has ", "me.jpg needs ", "me.jpg takes ")
        )
    else:
        with Image.open(io.BytesIO(made.data), formats=("JPEG", "PNG", "WEBP")) as image:
            image.load()
        assert made.size <= MAX_PREPARED_BYTES
        assert edge is None or (image.mode == "RGB" and max(image.size) <= edge)


def test_a_file_at_which_a_library_crashes_is_damaged(prepare: Prepare) -> None:
    """A file that is known to crash pi-heif; a version that reads it may prepare it."""
    try:
        prepare((SAMPLES / "crash.heic").read_bytes())
    except BadInput as error:
        assert error.code == "photo_damaged"
