"""A sweep is limited in jobs and time; the next one does what failed or is left."""

from __future__ import annotations

import asyncio
import time

from tests.support.proxy import Proxy
from tests.support.runs import Site
from tests.support.strays import failed, named, put
from worker.ops.sweep import SWEEP_SECONDS, Sweep
from worker.supabase.folders import Folders, Page


async def test_a_sweep_checks_at_most_the_given_number_of_folders(site: Site) -> None:
    """The answer says that more folders are left."""
    jobs = [await failed(site) for _ in range(3)]
    for job in jobs:
        await put(site, f"{job.folder}/{named(0, b'a')}")
    worker = site.worker()
    first = await worker.sweep(2)
    assert (first["jobsSwept"], first["objectsRemoved"], first["more"]) == (2, 2, True)
    second = await worker.sweep(2)
    assert (second["jobsSwept"], second["objectsRemoved"], second["more"]) == (1, 1, False)


async def test_a_sweep_without_answers_ends_in_time(site: Site) -> None:
    """The sweep counts no job as swept."""
    job = await failed(site)
    async with Proxy(site.stack.url) as proxy:
        proxy.gate("/object/list/")
        worker = site.worker(SUPABASE_URL=proxy.url)
        sweep = Sweep(worker.queue, Folders(worker.project), time.monotonic, 4.0, worker.stopping)
        async with asyncio.timeout(60):
            done = await sweep.run(10)
    assert (done["jobsSwept"], done["more"]) == (0, True)
    assert site.job(job.id)["sweptAt"] is None


async def test_a_stopped_worker_begins_nothing(site: Site) -> None:
    """A stopped worker takes no jobs to sweep."""
    await failed(site)
    worker = site.worker()
    worker.stop()
    assert (await worker.sweep(None))["jobsSwept"] == 0
    assert site.rows('select from photo_generation_queue where "sweepUntil" is not null') == []


async def test_storage_that_fails_is_tried_again(site: Site) -> None:
    """A folder that could not be listed is counted as a failure, stays unswept and is swept the next time."""
    job = await failed(site)
    await put(site, f"{job.folder}/{named(0, b'a')}")
    async with Proxy(site.stack.url) as proxy:
        proxy.lose_answer("/object/list/", times=5)
        done = await site.worker(SUPABASE_URL=proxy.url).sweep(None)
    assert (done["jobsSwept"], done["failures"], done["more"]) == (0, 1, True)
    assert len(site.objects()) == 1
    site.rows('update photo_generation_queue set "sweepUntil" = now() returning id')
    assert (await site.worker().sweep(None))["jobsSwept"] == 1
    assert site.objects() == {}


async def test_a_removal_whose_answer_is_lost(site: Site) -> None:
    """The next sweep finds nothing left."""
    job = await failed(site)
    await put(site, f"{job.folder}/{named(0, b'a')}")
    async with Proxy(site.stack.url) as proxy:
        proxy.lose_answer("/object/generated-photos", times=5)
        done = await site.worker(SUPABASE_URL=proxy.url).sweep(None)
    assert (done["jobsSwept"], done["failures"]) == (0, 1)
    site.rows('update photo_generation_queue set "sweepUntil" = now() returning id')
    done = await site.worker().sweep(None)
    assert (done["jobsSwept"], done["objectsRemoved"], site.objects()) == (1, 0, {})


def test_a_sweep_is_over_long_before_a_retry_may_begin() -> None:
    """The database delays retried jobs for three times the longest sweep."""
    assert SWEEP_SECONDS * 3 <= 180


class Noted(Folders):
    """Folders that remember how long each listing was allowed to take."""

    allowed: tuple[float, ...] = ()

    async def page(self, folder: str, offset: int, timeout_seconds: float) -> Page:
        """A listing, noted."""
        self.allowed += (timeout_seconds,)
        return await super().page(folder, offset, timeout_seconds)


async def test_no_call_may_outlive_the_sweep(site: Site) -> None:
    """Each call to Storage gets the remaining time minus that of the settle, and at most 20 s."""
    for seconds, expected in ((8.0, 4.0), (20.0, 15.0), (60.0, 20.0)):
        await failed(site)
        worker = site.worker()
        folders = Noted(worker.project)
        await Sweep(worker.queue, folders, lambda: 0.0, seconds, worker.stopping).run(1)
        assert folders.allowed == (expected,)
