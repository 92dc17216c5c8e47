"""What Gemini gets of real photos: upright, in sRGB, small, and without metadata."""

from __future__ import annotations

import io
import logging
import re

import pytest
from PIL import Image

from tests.support.photo_files import PHOTOS, SECRET, endless, is_close, saved
from tests.support.runs import Site

MOST = 14


def check(name: str, sent: bytes) -> None:
    """The photo shows what it should, and nothing else is in the file."""
    _, size, colors = PHOTOS[name]
    with Image.open(io.BytesIO(sent), formats=("JPEG", "PNG")) as image:
        assert (name, image.size, image.mode, getattr(image, "n_frames", 1)) == (name, size, "RGB", 1)
        for place, color in colors.items():
            at = tuple(int(share * side) for share, side in zip(place, image.size, strict=True))
            assert is_close(image, place, color), (name, place, image.getpixel((at[0], at[1])), color)
        assert not image.getexif(), name
        assert not {"exif", "xmp", "comment", "icc_profile"} & image.info.keys(), name
    assert SECRET.encode() not in sent and SECRET.encode("utf-16") not in sent, name


async def test_gemini_gets_photos_upright_in_srgb_small_and_without_metadata(site: Site) -> None:
    names = list(PHOTOS)
    uploaded = {name: await site.upload(name, PHOTOS[name][0](), "image/jpeg") for name in names}
    orders = [names[start : start + MOST] for start in range(0, len(names), MOST)]
    jobs = []
    for number, (first, *others) in enumerate(orders):
        photos = [uploaded[name] for name in others or [first]]
        jobs += await site.order(str(number), photo=uploaded[first], trainingImageUrls=photos)

    summary = await site.run()

    assert [site.job(job)["errorMessage"] for job in jobs] == [None] * len(jobs)
    for number, order in enumerate(orders):
        (call,) = site.calls(str(number))
        for name, sha in zip(order, call.photo_shas, strict=False):  # a photo alone is sent twice
            check(name, site.gemini.received.photo(sha))
    site.audit(summary)


async def test_off_sends_the_files_own_pixels_and_what_a_model_cannot_read_encoded_again(site: Site) -> None:
    """With `PHOTO_MAX_EDGE=off` photos keep their size, but are upright and have no metadata."""
    kept = {"large.jpg": "JPEG", "xmp.webp": "WEBP", "palette.png": "PNG", "nokia.jpg": "JPEG"}
    changed = ["orientation-6.jpg", "cmyk-with-a-profile.jpg", "moving.gif", "rotated.heic", "iphone.heic"]
    files = {name: PHOTOS[name][0]() for name in (*kept, *changed)}
    first, *others = [await site.upload(name, data, "image/jpeg") for name, data in files.items()]
    (job,) = await site.order("off", photo=first, trainingImageUrls=others)

    summary = await site.run(PHOTO_MAX_EDGE="off")

    assert site.job(job)["errorMessage"] is None
    (call,) = site.calls()
    for (name, data), sha in zip(files.items(), call.photo_shas, strict=True):
        sent = site.gemini.received.photo(sha)
        if name in changed:
            check(name, sent)
            continue
        with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(sent)) as after:
            assert (after.format, after.size) == (kept[name], before.size), name
            assert after.tobytes() == before.tobytes() and not after.getexif(), name
        assert SECRET.encode() not in sent and len(sent) <= len(data), name
    site.audit(summary)


async def test_a_photo_made_to_take_minutes_fails_its_own_job_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.photos.prepare.CPU_SECONDS", 1)
    slow = await site.upload("slow.jpg", endless(), "image/jpeg", user="attacker")
    (attacking,) = await site.order("slow", photo=slow, userId="attacker")
    (mine,) = await site.order("mine")

    summary = await site.run()

    row = site.job(attacking)
    assert (row["status"], row["errorCode"], site.job(mine)["status"]) == (
        "failed",
        "photo_too_large",
        "completed",
    )
    assert "slow.jpg takes more than 1 seconds to decode" in row["errorMessage"]
    assert not site.calls("slow")
    assert summary["completed"] == 1


async def test_photos_that_take_too_long_together_fail_their_job_and_name_the_slowest(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each alone is fast enough. A photo that an order names twice counts once."""
    monkeypatch.setattr("worker.photos.job_photos.PHOTOS_CPU_SECONDS", 0.25)
    noise = saved(Image.effect_noise((1500, 1000), 60), "PNG")
    photos = [await site.upload(f"{number}.png", noise + bytes([number])) for number in range(14)]
    (many,) = await site.order("many", photo=photos[0], trainingImageUrls=photos[1:])
    (few,) = await site.order("few", photo=photos[0], trainingImageUrls=photos[:1] * 13)

    summary = await site.run()

    row = site.job(many)
    assert (row["status"], row["errorCode"]) == ("failed", "photo_too_large")
    assert re.search(
        r"photo( \d+)?: takes 0\.\d s to decode, and all photos together more than 0\.25 s",
        row["errorMessage"],
    )
    assert (site.job(few)["status"], summary["completed"]) == ("completed", 1)


async def test_a_bucket_that_does_not_exist_is_reported_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator gets one alert for a run, however many orders name it; other orders are made."""
    caplog.set_level(logging.INFO, logger="worker")
    site.rows("insert into generation.photo_buckets values ('elsewhere') returning bucket")
    jobs = await site.order("a", "b", "c", photo=f"elsewhere/{site.user}/me.png")
    (mine,) = await site.order("mine")

    summary = await site.run()

    site.rows("delete from generation.photo_buckets where bucket = 'elsewhere' returning bucket")
    assert caplog.messages.count("misconfigured") == 1
    assert "elsewhere does not exist" in summary["problem"]
    assert {(site.job(job)["status"], site.job(job)["attempts"]) for job in jobs} == {("pending", 0)}
    assert site.job(mine)["status"] == "completed"
