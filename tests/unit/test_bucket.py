"""What a bucket of generated images has to accept, and the probe that is uploaded to it."""

from io import BytesIO

import pytest
from PIL import Image

from worker.supabase.bucket import MAX_IMAGE_BYTES, Bucket
from worker.supabase.storage import BUCKET
from worker.supabase.storage_proof import PIXELS, probe_image


@pytest.mark.parametrize(
    ("allowed", "refusal"), [("image/*", None), ("*/*", None), ("image/png", "image/jpeg")]
)
def test_a_bucket_may_allow_types_by_a_star(allowed: str, refusal: str | None) -> None:
    """Storage lets a bucket allow all images, or everything."""
    said = Bucket(BUCKET, public=False, max_bytes=None, types=(allowed,)).refusal
    assert said is None if refusal is None else refusal in str(said)


@pytest.mark.parametrize("kind", PIXELS)
def test_a_probe_has_the_type_and_size_of_the_refused_image(kind: str) -> None:
    """The probe is a valid image of one pixel, in case it is left behind and somebody opens it."""
    probe = probe_image({"bytes": 5000, "mimeType": kind})
    assert (len(probe.data), probe.mime_type) == (5000, kind)
    with Image.open(BytesIO(probe.data)) as image:
        image.load()
        assert (image.size, image.get_format_mimetype()) == ((1, 1), kind)


def test_a_probe_is_never_larger_than_the_bucket_takes() -> None:
    """Otherwise an image beyond the limit would keep all runs from working for good."""
    probe = probe_image({"bytes": MAX_IMAGE_BYTES + 1, "mimeType": "image/png"})
    assert len(probe.data) == MAX_IMAGE_BYTES
