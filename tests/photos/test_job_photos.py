"""All photos of a job together: their order, their processor time, and which one an error names."""

from __future__ import annotations

import asyncio

import pytest

from worker.errors import BadInput
from worker.jobs import Photo
from worker.photos.job_photos import PHOTOS_CPU_SECONDS, fetch_photos
from worker.photos.memory import HeldPhotos, PhotoMemory


class Source:
    """A source whose photos took so many seconds of processor time, by reference; none for any other."""

    def __init__(self, **cpu_seconds: float) -> None:
        self.photos = {name: Photo(name.encode(), "image/png", 1, cpu) for name, cpu in cpu_seconds.items()}

    async def fetch(self, reference: str, user_folder: str) -> Photo:
        if reference not in self.photos:
            raise BadInput("photo_missing", "photo not found")
        return self.photos[reference]


class Silent(Source):
    """A source in which every photo that is there never comes."""

    def __init__(self, **cpu_seconds: float) -> None:
        super().__init__(**cpu_seconds)
        self.given_up = asyncio.Event()

    async def fetch(self, reference: str, user_folder: str) -> Photo:
        try:
            await super().fetch(reference, user_folder)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        raise AssertionError


async def fetched(*references: str, **cpu_seconds: float) -> list[bytes]:
    """The photos that a job with these references gets."""
    run = PhotoMemory(10**9, lambda: 0.0).open(Source(**cpu_seconds))
    async with run.hold(references, "user") as held:
        assert isinstance(held, HeldPhotos)
        return [photo.encoded for photo in await fetch_photos(references, held)]


async def test_the_photos_come_in_the_order_of_the_job() -> None:
    """The example first, which the prompt calls the first photo."""
    assert await fetched("c", "a", "b", a=1, b=1, c=1) == [b"c", b"a", b"b"]


async def test_a_photo_that_is_both_example_and_training_photo_takes_its_time_once() -> None:
    """The photo is decoded once."""
    most = float(PHOTOS_CPU_SECONDS)
    assert await fetched("a", "a", a=most) == [b"a", b"a"]


@pytest.mark.parametrize(
    ("slowest", "named"), [("a", "Example photo"), ("b", "Training photo 1"), ("c", "Training photo 2")]
)
async def test_photos_that_take_too_long_together_are_refused_by_the_name_of_the_slowest(
    slowest: str, named: str
) -> None:
    """The customer has to make that one smaller."""
    seconds = {"a": 20.0, "b": 20.0, "c": 20.0} | {slowest: 40.0}
    with pytest.raises(BadInput) as caught:
        await fetched("a", "b", "c", **seconds)
    assert caught.value.code == "photo_too_large"
    assert caught.value.message.startswith(f"{named}: takes 40.0 s to decode")


async def test_after_a_photo_that_fails_no_other_is_waited_for() -> None:
    """The job ends with it, and its places and memory are for others."""
    source = Silent(b=1)
    async with PhotoMemory(10**9, lambda: 0.0).open(source).hold(["a", "b"], "user") as held:
        with pytest.raises(BadInput, match="Example photo: photo not found"):
            await fetch_photos(["a", "b"], held)
        await asyncio.wait_for(source.given_up.wait(), 30)
