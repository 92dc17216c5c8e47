"""Photos out of Storage, the caps around every fetch, and the cache that fetches each photo once per run."""

import asyncio
import struct
import zlib
from typing import Any

import pytest

from tests.photo_host import photo
from worker.errors import BadInput, GenerationError, Transient
from worker.job import Photo
from worker.photos import PhotoCache, PhotoFetcher

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
        return self.objects[key]


class Source:
    """Fetches for the cache when its gate is open; fails with what `failures` holds, else has a photo."""

    def __init__(self, data: bytes = PNG) -> None:
        self.asked: list[tuple[str, str]] = []
        self.failures: list[Exception] = []
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.gate = asyncio.Event()
        self._data = data

    def open(self) -> "Source":
        self.gate.set()
        return self

    async def fetch(self, reference: str, user_id: str) -> Photo:
        self.asked.append((reference, user_id))
        self.begun.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            await self.may_end.wait()
            raise
        if self.failures:
            raise self.failures.pop(0)
        return Photo(self._data, "image/png")


def fetcher(bucket: Bucket, **limits: Any) -> PhotoFetcher:
    return PhotoFetcher(bucket, ("uploads",), **limits)


async def settled(*tasks: asyncio.Task[Any]) -> None:
    """Wait until all are done, whatever came of them."""
    await asyncio.wait_for(asyncio.wait(tasks), 5)


async def test_from_storage() -> None:
    """A storage reference is downloaded with the cap on bytes, its type read from the bytes."""
    bucket = Bucket(me=PNG)
    assert await fetcher(bucket).fetch(f"uploads/{USER}/me", USER) == Photo(PNG, "image/png")
    assert bucket.asked == [(f"uploads/{USER}/me", 7_000_000)]


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        (f"uploads/{USER}/absent", "photo_missing"),
        (f"uploads/{USER}/empty", "photo_empty"),
        (f"uploads/{USER}/text", "photo_not_an_image"),
        (f"uploads/{USER}/large", "photo_too_large"),
        (f"uploads/{USER}/bomb", "photo_too_large"),
        ("uploads/user-2/me", "foreign_photo"),
        (f"secrets/{USER}/me", "forbidden_bucket"),
        (f"uploads/{USER}/../user-2/me", "bad_reference"),
        ("http://example.com/me", "bad_url"),
        ("https://localhost/me", "forbidden_address"),
    ],
)
async def test_refused(reference: str, code: str) -> None:
    """What can never become a photo is BadInput with its own code."""
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + PNG[24:29]
    bomb = PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]
    bucket = Bucket(empty=b"", text=b"just text", large=PNG + bytes(50_000), bomb=bomb)
    with pytest.raises(BadInput) as caught:
        await fetcher(bucket, max_bytes=50_000).fetch(reference, USER)
    assert caught.value.code == code


async def test_storage_time_is_capped() -> None:
    """Storage that does not answer in time is Transient, too."""
    bucket = Bucket(me=PNG)
    bucket.gate.clear()
    with pytest.raises(Transient, match="photo_host_unavailable"):
        await asyncio.wait_for(fetcher(bucket, timeout_seconds=0.05).fetch(f"uploads/{USER}/me", USER), 5)


async def test_concurrent_fetches_are_bounded() -> None:
    """No more than `max_concurrent` photos are half-read at any time."""
    bucket = Bucket(a=PNG, b=PNG, c=PNG)
    bucket.gate.clear()
    photos = fetcher(bucket, max_concurrent=2)
    tasks = [asyncio.create_task(photos.fetch(f"uploads/{USER}/{name}", USER)) for name in "abc"]
    await bucket.begun.get()
    await bucket.begun.get()
    assert len(bucket.asked) == 2
    tasks[0].cancel()
    await bucket.begun.get()
    bucket.gate.set()
    await settled(*tasks)
    assert len(bucket.asked) == 3


async def test_one_fetch_for_all() -> None:
    """A photo asked for by many at once, and again later, is fetched once; another user's is not shared."""
    source = Source()
    cache = PhotoCache(source)
    tasks = [asyncio.create_task(cache.fetch("a", USER)) for _ in range(5)]
    await source.begun.wait()
    source.open()
    photos = {id(await task) for task in tasks} | {id(await cache.fetch("a", USER))}
    assert len(photos) == 1
    assert source.asked == [("a", USER)]
    await cache.fetch("a", "user-2")
    assert source.asked == [("a", USER), ("a", "user-2")]


async def test_cancelled_waiter_leaves_the_others() -> None:
    """Who stops waiting takes nothing from those who still wait, not even the one who asked first."""
    source = Source()
    cache = PhotoCache(source)
    first, second = (asyncio.create_task(cache.fetch("a", USER)) for _ in range(2))
    await source.begun.wait()
    first.cancel()
    await settled(first)
    source.open()
    assert (await second).data == PNG
    assert first.cancelled()
    assert source.asked == [("a", USER)]


async def test_nobody_waits_any_more() -> None:
    """A fetch that everybody gave up is cancelled; asking anew begins another, even while it ends."""
    source = Source()
    source.may_end.clear()
    cache = PhotoCache(source)
    waiting = [asyncio.create_task(cache.fetch("a", USER)) for _ in range(2)]
    await source.begun.wait()
    abandoned = asyncio.all_tasks() - {*waiting, asyncio.current_task()}
    for task in waiting:
        task.cancel()
    await settled(*waiting)
    await asyncio.wait_for(source.cancelled.wait(), 5)
    source.begun.clear()
    anew = asyncio.create_task(cache.fetch("a", USER))
    await asyncio.wait_for(source.begun.wait(), 5)
    source.may_end.set()
    await settled(*abandoned)
    joined = asyncio.create_task(cache.fetch("a", USER))
    other = asyncio.create_task(cache.fetch("b", USER))
    source.open()
    await settled(anew, joined, other)
    assert anew.result() is joined.result()
    assert [reference for reference, _ in source.asked] == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("failure", "fetches"),
    [
        (BadInput("photo_missing", "gone"), 1),
        (Transient("photo_host_unavailable", "down"), 2),
        (KeyError("bug"), 2),
    ],
)
async def test_failures(failure: Exception, fetches: int) -> None:
    """All who wait learn of a failure; BadInput is remembered for the run, anything else is tried again."""
    source = Source()
    source.failures = [failure]
    cache = PhotoCache(source)
    tasks = [asyncio.create_task(cache.fetch("a", USER)) for _ in range(3)]
    await source.begun.wait()
    source.open()
    await settled(*tasks)
    assert [type(task.exception()) for task in tasks] == [type(failure)] * 3
    if isinstance(failure, BadInput):
        with pytest.raises(BadInput, match="photo_missing: gone"):
            await cache.fetch("a", USER)
    else:
        assert (await cache.fetch("a", USER)).data == PNG
    assert len(source.asked) == fetches


async def test_least_recently_used_goes_first() -> None:
    """The photos kept stay within `max_bytes`; the one not used for longest is dropped."""
    source = Source(bytes(100)).open()
    cache = PhotoCache(source, max_bytes=200)
    for reference in ("a", "b", "a", "c", "a", "c", "b"):
        await cache.fetch(reference, USER)
    assert [reference for reference, _ in source.asked] == ["a", "b", "c", "b"]


async def test_photo_above_the_limit_passes_through() -> None:
    """A photo larger than the whole cache is delivered and not kept."""
    source = Source(bytes(100)).open()
    cache = PhotoCache(source, max_bytes=99)
    assert len((await cache.fetch("a", USER)).data) == 100
    await cache.fetch("a", USER)
    assert len(source.asked) == 2


async def test_close() -> None:
    """Closing stops what is under way, tells those who wait, and lets nothing begin any more."""
    source = Source()
    cache = PhotoCache(source)
    waiting = asyncio.create_task(cache.fetch("a", USER))
    await source.begun.wait()
    before = asyncio.all_tasks() - {waiting}
    await cache.close()
    assert source.cancelled.is_set()
    assert asyncio.all_tasks() - {waiting} < before
    for late in (waiting, cache.fetch("a", USER)):
        with pytest.raises(GenerationError, match="photo_fetch_stopped"):
            await late
    assert len(source.asked) == 1
