"""The jobs of a run: places, jobs that only wait, and the wake-up by every change."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from tests.support.builders import a_job
from worker.common.deadline import Deadline
from worker.jobs import Job
from worker.run.in_flight import MANY_WAITING, MOST_JOBS, JobsInFlight
from worker.run.outcome import JobEnd, JobOutcome

PLACES, IMAGES = 4, 6


@pytest.fixture
async def jobs() -> AsyncIterator[JobsInFlight]:
    """The jobs of a run with four places."""
    in_flight = JobsInFlight(PLACES, IMAGES, asyncio.get_running_loop().time)
    yield in_flight
    in_flight.abandon()


@pytest.fixture
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.run.in_flight.PATIENCE_SECONDS", 0.0)


def later(seconds: float = 30) -> Deadline:
    """A deadline that a test never reaches."""
    clock = asyncio.get_running_loop().time
    return Deadline(clock() + seconds, clock)


async def hang(job: Job) -> JobEnd:
    """Work that never ends."""
    await asyncio.Event().wait()
    return JobEnd(job, (), JobOutcome("completed"))


async def wait_for_photos(jobs: JobsInFlight, job: Job) -> JobEnd:
    """A job whose photos never come."""
    with jobs.waiting(job):
        return await hang(job)


async def start(jobs: JobsInFlight, count: int, user_id: str, waiting: bool) -> None:
    """Start so many jobs of a user, and let them get as far as they can."""
    for _ in range(count):
        job = a_job(id=len(jobs), user_id=user_id)
        jobs.start(job, wait_for_photos(jobs, job) if waiting else hang(job))
    await asyncio.sleep(0)


async def test_a_job_takes_a_place(jobs: JobsInFlight) -> None:
    """The job's images count as unsent until their requests have been sent."""
    await start(jobs, 1, "user", waiting=False)
    assert jobs.free_places() == PLACES - 1
    before = jobs.unsent_images()
    jobs.count_requests(0)
    assert jobs.unsent_images() == before - 1


@pytest.mark.usefixtures("_no_patience")
async def test_a_job_that_waits_takes_none(jobs: JobsInFlight) -> None:
    """Its images do not precede those of other users either; but the number of such jobs is limited."""
    await start(jobs, 3, "user", waiting=True)
    assert (jobs.free_places(), jobs.unsent_images()) == (PLACES, 0)
    await start(jobs, MOST_JOBS * PLACES - 5, "user", waiting=True)
    assert (jobs.free_places(), jobs.claimable_jobs()) == (2, 1)
    await start(jobs, 2, "user", waiting=True)
    assert jobs.free_places() == 0


@pytest.mark.usefixtures("_no_patience")
async def test_many_jobs_that_wait_keep_no_user_without_one_from_being_claimed(jobs: JobsInFlight) -> None:
    """The places stay free for these, but a claim takes few jobs."""
    await start(jobs, 1, "one", waiting=True)
    await start(jobs, MANY_WAITING * PLACES - 2, "many", waiting=True)
    assert (jobs.claimable_jobs(), jobs.users_at_limit()) == (PLACES, ["many"])
    await start(jobs, PLACES, "next", waiting=True)
    assert (jobs.free_places(), jobs.claimable_jobs()) == (PLACES, PLACES // 4)
    assert jobs.users_at_limit() == ["many", "next", "one"]


@pytest.mark.usefixtures("_no_patience")
async def test_a_user_whose_jobs_wait_gets_no_more(jobs: JobsInFlight) -> None:
    """The limit is half of the places; other users are not affected."""
    await start(jobs, PLACES // 2 - 1, "few", waiting=True)
    await start(jobs, PLACES // 2, "many", waiting=True)
    await start(jobs, IMAGES // 4, "working", waiting=False)
    assert jobs.users_at_limit() == ["many"]


async def test_a_user_with_many_unsent_images_gets_no_more_and_holds_up_nobody(jobs: JobsInFlight) -> None:
    """From more than half of those that are made at a time on; the images of others still count."""
    await start(jobs, 2, "many", waiting=False)  # a job has two images
    await start(jobs, 1, "few", waiting=False)
    assert (jobs.users_at_limit(), jobs.unsent_images()) == (["many"], 2)
    jobs.count_requests(0)
    assert (jobs.users_at_limit(), jobs.unsent_images()) == ([], IMAGES // 2 + 2)


async def test_requests_sent_again_for_a_job_leave_the_images_of_others_unsent(jobs: JobsInFlight) -> None:
    """A job may take more requests than it has images."""
    await start(jobs, 2, "user", waiting=False)  # a job has two images
    jobs.count_requests(0, 4)
    assert jobs.unsent_images() == 2


async def test_a_short_wait_takes_the_place(jobs: JobsInFlight) -> None:
    """Most photos come within the patience."""
    await start(jobs, 1, "user", waiting=True)
    assert jobs.free_places() == PLACES - 1


async def test_a_sent_request_wakes_the_run(jobs: JobsInFlight) -> None:
    """After a sent request the run may claim more jobs."""
    waiter = asyncio.create_task(jobs.wait_for_change(later()))
    await asyncio.sleep(0)
    jobs.count_requests(1)
    await asyncio.wait_for(waiter, 60)


async def test_the_end_of_patience_wakes_the_run(jobs: JobsInFlight, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place has come free, though nothing has ended."""
    monkeypatch.setattr("worker.run.in_flight.PATIENCE_SECONDS", 0.05)
    await start(jobs, 1, "user", waiting=True)
    await jobs.wait_for_change(later())
    assert jobs.free_places() == PLACES


@pytest.mark.parametrize("seed", range(10))
async def test_no_change_is_missed(jobs: JobsInFlight, seed: int) -> None:
    """However ends, requests and looks interleave, a run that waits for changes sees every job end."""
    chance = random.Random(seed)

    async def work(job: Job) -> JobEnd:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
            jobs.count_requests(job.id)
        return JobEnd(job, (), JobOutcome("completed"))

    for number in range(30):
        job = a_job(id=number)
        jobs.start(job, work(job))
    deadline, ended, looks = later(), 0, 0
    while len(jobs):
        looks += 1
        ended += len(jobs.take_ended())
        await asyncio.sleep(chance.choice([0, 0, 0.001]))
        if len(jobs):
            await jobs.wait_for_change(deadline)
        assert not deadline.passed
    assert ended == 30
    assert looks < 300
