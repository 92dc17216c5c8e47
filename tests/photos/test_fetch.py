"""Photos out of Storage, and the limits around every fetch."""

import asyncio
import time
from typing import Any

import pytest

from tests.support.photo_host import fetcher_of, photo
from worker.errors import BadInput, Transient
from worker.jobs import Photo
from worker.photos.address import PhotoUrl
from worker.photos.download import PhotoDownload
from worker.photos.fetch import USUAL_BYTES, PhotoFetcher
from worker.photos.hosts import RunHosts
from worker.settings import MAX_PHOTO_BYTES

USER = "user-1"
PNG = photo("PNG")


class Bucket:
    """Storage in memory that answers when its gate is open; `asked` are the downloads begun."""

    def __init__(self, **objects: bytes) -> None:
        self.objects = {f"uploads/{USER}/{name}": data for name, data in objects.items()}
        self.asked: list[tuple[str, int]] = []
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()

    async def download(self, bucket: str, path: str, max_bytes: int) -> bytes:
        key = f"{bucket}/{path}"
        self.asked.append((key, max_bytes))
        self.begun.put_nowait(key)
        await self.gate.wait()
        if key not in self.objects:
            raise BadInput("photo_missing", "no such photo")
        if len(self.objects[key]) > max_bytes:
            raise BadInput("photo_too_large", "too large")
        return self.objects[key]


class Web(PhotoDownload):
    """Photo hosts that begin to answer and never end; `begun` are the fetches, by user."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: asyncio.Queue[str] = asyncio.Queue()

    async def get(self, url: PhotoUrl, user_folder: str, hosts: RunHosts, max_bytes: int) -> bytes:
        self.begun.put_nowait(user_folder)
        return await asyncio.Future()


def fetcher(bucket: Bucket, web: PhotoDownload | None = None, **limits: Any) -> PhotoFetcher:
    return fetcher_of(bucket, web or PhotoDownload(), "uploads", **{"max_bytes": MAX_PHOTO_BYTES, **limits})


async def settled(*tasks: asyncio.Task[Any]) -> None:
    """Wait until all are done, with any result."""
    await asyncio.wait_for(asyncio.wait(tasks), 5)


async def test_a_photo_from_storage_has_a_size_limit_and_its_type_from_its_bytes() -> None:
    """Its name does not count."""
    bucket = Bucket(me=PNG)
    assert await fetcher(bucket).fetch(f"uploads/{USER}/me", USER) == Photo.of(PNG, "image/png")
    assert bucket.asked == [(f"uploads/{USER}/me", USUAL_BYTES)]


@pytest.mark.parametrize("start", [b"", b"<?xml ?>"])
async def test_a_file_of_spaces_costs_no_time(start: bytes) -> None:
    """Detecting a file's type takes at most some milliseconds of the shared event loop."""
    bucket = Bucket(spaces=start.ljust(MAX_PHOTO_BYTES))
    began = time.thread_time()
    with pytest.raises(BadInput, match="not a photo"):
        await fetcher(bucket).fetch(f"uploads/{USER}/spaces", USER)
    assert time.thread_time() - began < 0.03


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        (f"uploads/{USER}/absent", "photo_missing"),
        (f"uploads/{USER}/empty", "photo_empty"),
        (f"uploads/{USER}/text", "photo_not_an_image"),
        (f"uploads/{USER}/large", "photo_too_large"),
        ("uploads/user-2/me", "foreign_photo"),
        (f"secrets/{USER}/me", "forbidden_bucket"),
        (f"uploads/{USER}/../user-2/me", "bad_reference"),
        ("http://example.com/me", "bad_url"),
        ("https://localhost/me", "forbidden_address"),
    ],
)
async def test_a_reference_that_can_never_be_a_photo_is_bad_input(reference: str, code: str) -> None:
    """Each reason has its own code."""
    bucket = Bucket(empty=b"", text=b"just text", large=PNG + bytes(50_000))
    with pytest.raises(BadInput) as caught:
        await fetcher(bucket, max_bytes=50_000).fetch(reference, USER)
    assert caught.value.code == code


async def test_a_large_photo_is_read_with_memory_for_the_largest() -> None:
    """The photo is requested twice: reserving the largest size for every photo would allow only a few."""
    bucket = Bucket(large=PNG + bytes(USUAL_BYTES))
    photo = await fetcher(bucket).fetch(f"uploads/{USER}/large", USER)
    assert len(photo.data) == len(PNG) + USUAL_BYTES
    assert [most for _, most in bucket.asked] == [USUAL_BYTES, MAX_PHOTO_BYTES]


async def test_storage_time_is_capped() -> None:
    """Storage that does not answer in time is Transient, too."""
    bucket = Bucket(me=PNG)
    bucket.gate.clear()
    with pytest.raises(Transient, match="photo_host_unavailable"):
        await asyncio.wait_for(fetcher(bucket, timeout_seconds=0.05).fetch(f"uploads/{USER}/me", USER), 60)


async def test_concurrent_fetches_are_bounded() -> None:
    """No more than `max_concurrent` photos are half-read at any time."""
    bucket = Bucket()
    bucket.gate.clear()
    photos = fetcher(bucket, max_concurrent=2)
    tasks = [asyncio.create_task(photos.fetch(f"uploads/{user}/me", user)) for user in "abc"]
    await bucket.begun.get()
    await bucket.begun.get()
    assert len(bucket.asked) == 2
    tasks[0].cancel()
    await bucket.begun.get()
    bucket.gate.set()
    await settled(*tasks)
    assert len(bucket.asked) == 3


@pytest.mark.parametrize("place", ["storage", "web"])
async def test_one_user_has_at_most_half_of_the_fetches(place: str) -> None:
    """Whatever one user orders, from Storage or the web, others' photos are fetched meanwhile."""
    bucket, web = Bucket(), Web()
    bucket.gate.clear()
    photos = fetcher(bucket, web, max_concurrent=4)
    begun = bucket.begun if place == "storage" else web.begun

    def fetch(user: str, number: int) -> asyncio.Task[Photo]:
        where = f"uploads/{user}" if place == "storage" else "https://photos.example.com"
        return asyncio.create_task(photos.fetch(f"{where}/{number}.jpg", user))

    tasks = [*(fetch("greedy", number) for number in range(8)), fetch("modest", 0)]
    first = [await asyncio.wait_for(begun.get(), 5) for _ in range(3)]

    assert ["modest" in each for each in first] == [False, False, True]
    for task in tasks:
        task.cancel()
    await settled(*tasks)
