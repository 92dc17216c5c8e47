"""The photos in a worker's memory: each fetched once, shared by runs, never stale, within the limit."""

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from worker.errors import BadInput, Transient
from worker.jobs import Photo
from worker.photos.memory import PHOTO_BYTES, HeldPhotos, PhotoMemory, RunPhotos
from worker.photos.prepare import MAX_PREPARED_BYTES, MOST_PHOTOS

USER = "user-1"


class WatchedPhoto(Photo):
    """A photo that a weak reference may point to."""


class Source:
    """Fetches when its gate is open; raises the error in `failures`, or returns a photo of `size` bytes."""

    def __init__(self, size: int = 100) -> None:
        self.asked: list[tuple[str, str]] = []
        self.failures: list[Exception] = []
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.size = size
        self._given: list[weakref.ref[Photo]] = []

    async def kept_bytes(self) -> int:
        """The bytes of photos that are still referenced."""
        await all_settled()
        photos = [given() for given in self._given]
        return sum(len(photo.data) for photo in photos if photo)

    async def fetch(self, reference: str, user_folder: str) -> Photo:
        self.asked.append((reference, user_folder))
        self.begun.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.failures:
            raise self.failures.pop(0)
        photo = WatchedPhoto.of(bytes(self.size), "image/png")
        self._given.append(weakref.ref(photo))
        return photo


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def memory() -> PhotoMemory:
    """Room for the largest photos of four jobs with one photo each, and so for two of one user."""
    return PhotoMemory(4 * MAX_PREPARED_BYTES, Clock())


async def fetch(run: RunPhotos, *references: str, user: str = USER) -> list[Photo]:
    """What a user's job gets, from reserving to releasing."""
    async with run.hold(references, user) as held:
        return list(await asyncio.gather(*(held.fetch(reference) for reference in references)))


async def all_settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@asynccontextmanager
async def waiting_for(
    held: HeldPhotos, reference: str, count: int
) -> AsyncIterator[list[asyncio.Task[Photo]]]:
    tasks = [asyncio.create_task(held.fetch(reference)) for _ in range(count)]
    await all_settled()
    yield tasks
    await asyncio.wait(tasks)


async def test_a_photo_is_fetched_once_for_all_jobs_and_runs_of_its_user(
    memory: PhotoMemory, source: Source
) -> None:
    one, two = memory.open(source), memory.open(source)
    first, again, other_run = await fetch(one, "a"), await fetch(one, "a", "a"), await fetch(two, "a")
    assert {id(photo) for photo in (*first, *again, *other_run)} == {id(first[0])}
    await fetch(one, "a", user="user-2")
    assert source.asked == [("a", USER), ("a", "user-2")]


async def test_a_run_never_gets_a_photo_older_than_itself(memory: PhotoMemory, source: Source) -> None:
    """The user may have replaced it before ordering. A job that holds the older one keeps it."""
    earlier = memory.open(source)
    async with earlier.hold(["a"], USER) as held:
        old = await held.fetch("a")
        source.size = 50
        later = memory.open(source)
        assert len((await fetch(later, "a"))[0].data) == 50
        assert await held.fetch("a") is old
    assert len(source.asked) == 2


async def test_photos_are_forgotten_with_the_last_run_that_may_use_them(
    memory: PhotoMemory, source: Source
) -> None:
    one, two = memory.open(source), memory.open(source)
    await fetch(one, "a")
    one.close()
    await fetch(two, "a")
    assert len(source.asked) == 1
    assert await source.kept_bytes() == source.size
    two.close()
    assert await source.kept_bytes() == 0


async def test_a_job_waits_until_its_photos_fit(memory: PhotoMemory, source: Source) -> None:
    """The largest size is reserved until the real sizes are known; then the rest is free for others."""
    run = memory.open(source)
    source.gate.clear()
    jobs = [asyncio.create_task(fetch(run, name, user=f"user-{name}")) for name in "abcde"]
    await all_settled()
    assert [reference for reference, _ in source.asked] == ["a", "b", "c", "d"]
    source.gate.set()
    assert len(await asyncio.gather(*jobs)) == 5


async def test_one_user_fills_no_more_than_half(memory: PhotoMemory, source: Source) -> None:
    run = memory.open(source)
    source.gate.clear()
    attack = [asyncio.create_task(fetch(run, name)) for name in "abcd"]
    victim = asyncio.create_task(fetch(run, "mine", user="user-2"))
    await all_settled()
    assert [reference for reference, _ in source.asked] == ["a", "b", "mine"]
    source.gate.set()
    await asyncio.gather(*attack, victim)


async def test_the_largest_order_leaves_memory_for_another_users_largest_order(source: Source) -> None:
    """Jobs whose photos take minutes do not delay another user's job, however many photos it has."""
    run = PhotoMemory(PHOTO_BYTES, Clock()).open(source)
    source.gate.clear()
    attack = [
        asyncio.create_task(fetch(run, *(f"slow-{job}-{number}" for number in range(MOST_PHOTOS))))
        for job in range(3)
    ]
    await all_settled()
    victim = asyncio.create_task(fetch(run, *map(str, range(MOST_PHOTOS)), user="user-2"))
    await all_settled()
    assert [user for _, user in source.asked] == [USER] * MOST_PHOTOS + ["user-2"] * MOST_PHOTOS
    source.gate.set()
    await asyncio.gather(*attack, victim)


async def test_unused_photos_make_room_the_least_recently_used_first(source: Source) -> None:
    source.size = MAX_PREPARED_BYTES * 4 // 5
    memory = PhotoMemory(2 * MAX_PREPARED_BYTES, Clock())  # for two of these and one that may be the largest
    run = memory.open(source)
    for reference in ("a", "b", "a", "c", "a", "b"):
        await fetch(run, reference)
        assert await source.kept_bytes() <= 2 * MAX_PREPARED_BYTES
    assert [reference for reference, _ in source.asked] == ["a", "b", "c", "b"]


async def test_a_cancelled_waiter_leaves_the_others(memory: PhotoMemory, source: Source) -> None:
    """Others keep waiting, even if the first one is cancelled."""
    source.gate.clear()
    async with (
        memory.open(source).hold(["a"], USER) as held,
        waiting_for(held, "a", 2) as (first, second),
    ):
        first.cancel()
        await asyncio.wait([first])
        source.gate.set()
    assert first.cancelled()
    assert second.result() is await held.fetch("a")
    assert len(source.asked) == 1


async def test_a_fetch_that_nobody_waits_for_is_cancelled(memory: PhotoMemory, source: Source) -> None:
    source.gate.clear()
    run = memory.open(source)
    job = asyncio.create_task(fetch(run, "a"))
    await source.begun.wait()
    job.cancel()
    await asyncio.wait([job])
    await all_settled()
    assert source.cancelled.is_set()
    source.gate.set()
    assert len(await fetch(run, "a")) == 1
    assert len(source.asked) == 2


@pytest.mark.parametrize(
    ("failure", "fetches"),
    [
        (BadInput("photo_missing", "gone"), 1),
        (Transient("photo_host_unavailable", "down"), 2),
        (KeyError("bug"), 2),
    ],
)
async def test_every_waiting_job_learns_of_a_failed_fetch(
    memory: PhotoMemory, source: Source, failure: Exception, fetches: int
) -> None:
    """BadInput is remembered for the run; anything else is tried again."""
    source.gate.clear()
    source.failures = [failure]
    run = memory.open(source)
    async with run.hold(["a"], USER) as held, waiting_for(held, "a", 3) as tasks:
        source.gate.set()
    assert [type(task.exception()) for task in tasks] == [type(failure)] * 3
    if isinstance(failure, BadInput):
        with pytest.raises(BadInput, match="photo_missing: gone"):
            await fetch(run, "a")
    else:
        assert len(await fetch(run, "a")) == 1
    assert len(source.asked) == fetches


async def test_jobs_cancelled_at_any_moment_leave_nothing_behind(source: Source) -> None:
    """In the end no photo is held, and all memory is free."""
    memory = PhotoMemory(4 * MAX_PREPARED_BYTES, Clock())
    run = memory.open(source)
    for moment in range(12):
        source.gate.clear()
        names = [f"{moment}-{name}" for name in "abc"]
        jobs = [asyncio.create_task(fetch(run, *names, user=f"user-{number % 3}")) for number in range(6)]
        for _ in range(moment):
            await asyncio.sleep(0)
        jobs[moment % 6].cancel()
        await all_settled()
        source.gate.set()
        await asyncio.wait(jobs)
        assert [job.cancelled() for job in jobs].count(True) == 1
    run.close()
    jobs.clear()  # they have their photos
    assert await source.kept_bytes() == 0
    source.gate.clear()
    source.asked.clear()
    later = memory.open(source)
    jobs = [asyncio.create_task(fetch(later, "a", "b", user=f"user-{number}")) for number in range(2)]
    await all_settled()
    assert len(source.asked) == 4
    source.gate.set()
    await asyncio.gather(*jobs)
