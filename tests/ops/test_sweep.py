"""The sweep, on real Storage: it removes objects without a row, and never one with a row."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tests.support.proxy import Proxy
from tests.support.runs import Site, picture
from tests.support.strays import AGE, cancelled, claimed, failed, named, photo, put
from worker.app import Worker

HELD = {"kind": "image", "hold": True}
ENDED = 'select id from photo_generation_queue where "completedAt" is not null'


async def test_strays_go_and_photos_stay(site: Site) -> None:
    """Objects that were never recorded, and second ones, go; the photo and foreign names stay."""
    worker = site.worker()
    job = await claimed(site, worker, images=3)
    kept = await put(site, f"{job.folder}/{named(0, b'kept')}")
    assert (await worker.queue.record_photo(job, 0, photo(kept), 10.0)).result == "recorded"
    for name in (named(0, b"second"), named(1, b"lost"), named(99, b"no such image")):
        await put(site, f"{job.folder}/{name}")
    foreign = {
        await put(site, f"{job.folder}/{name}")
        for name in ("notes.png", "0-short", f"sub/{named(1, b'deeper')}")
    }
    # Folders whose names begin like this one, and one with a row elsewhere.
    foreign |= {await put(site, f"{job.folder}{more}/{named(0, b'neighbour')}") for more in ("0", "-", "_")}
    await cancelled(site, job)

    done = await worker.sweep(None)

    size = len(picture())
    assert done == {
        "jobsSwept": 1, "objectsRemoved": 3, "bytesRemoved": 3 * size, "erasuresDone": 0, "failures": 0,
        "more": False,
    }  # fmt: skip
    assert set(site.objects()) == foreign | {kept}
    assert site.job(job.id)["sweptAt"] is not None
    assert (await worker.sweep(None))["jobsSwept"] == 0


async def test_a_job_that_may_go_on_is_not_looked_at(site: Site) -> None:
    """An object of a waiting or just ended job may still be recorded, so it stays."""
    worker = site.worker()
    waiting = await claimed(site, worker)
    paths = {await put(site, f"{waiting.folder}/{named(0, b'a')}")}
    ended = await claimed(site, worker)
    paths.add(await put(site, f"{ended.folder}/{named(0, b'b')}"))
    await site.service.rpc("cancel_generation_batch", {"p_batch_id": ended.batch_id}).execute()
    assert (await worker.sweep(None))["jobsSwept"] == 0
    assert set(site.objects()) == paths


async def test_a_late_upload_after_cancelling(site: Site) -> None:
    """The sweep finds an image that a worker stored for a cancelled order before it died."""
    site.gemini.add_rule(HELD)
    (job_id,) = await site.order("a")
    async with Proxy(site.stack.url) as proxy:
        run = asyncio.create_task(site.run(SUPABASE_URL=proxy.url))
        await site.open_calls(1)
        batch = site.job(job_id)["batchId"]
        await site.service.rpc("cancel_generation_batch", {"p_batch_id": batch}).execute()
        proxy.cut_at("/rpc/record_generated_photo")
        site.gemini.release()
        await site.until_row(
            "select from storage.objects where bucket_id = 'generated-photos' and starts_with(name, %s)",
            site.user,
        )
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
    assert len(site.objects()) == 1
    site.rows(AGE)
    assert (await site.worker().sweep(None))["objectsRemoved"] == 1
    assert site.objects() == {}


async def test_a_zombie_after_everything(site: Site) -> None:
    """A worker that uploads, records and settles once its job has long ended changes nothing that counts."""
    zombie = site.worker()
    job = await claimed(site, zombie)
    site.expire_leases()
    summary = await site.run()
    assert summary["completed"] == 1
    before, photos, objects = site.job(job.id), site.photos(), set(site.objects())

    path = await put(site, f"{job.folder}/{named(0, b'late')}")
    told = await zombie.queue.record_photo(job, 0, photo(path), 10.0)
    assert (told.result, told.storage_path) == ("already_recorded", photos[0]["storagePath"])
    fence = {"jobId": job.id, "fence": job.fence, "outcome": "failed", "code": "x", "message": "x"}
    answer = await zombie.queue.rpc("settle_generation_jobs", {"p_results": [fence]})
    assert answer["results"][0]["result"] == "lease_lost"
    assert (site.job(job.id), site.photos()) == (before, photos)

    site.rows(AGE)
    assert (await zombie.sweep(None))["objectsRemoved"] == 1
    assert (set(site.objects()), site.photos()) == (objects, photos)


async def test_a_retry_during_a_sweep(site: Site) -> None:
    """A job taken up again between listing and removing is not claimed before the sweep's time is over, so
    that nothing is adopted that is about to go."""
    job = await failed(site)
    stray = await put(site, f"{job.folder}/{named(0, picture())}", picture())
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("/object/generated-photos")
        sweeping = asyncio.create_task(site.worker(SUPABASE_URL=proxy.url).sweep(None))
        await gate.reached()
        assert stray in site.objects()
        retried = await site.service.rpc("retry_failed_generation_jobs", {}).execute()
        assert retried.data == {"retried": 1}
        assert (await site.run())["claimed"] == 0
        gate.open()
        done = await sweeping
    assert (done["objectsRemoved"], done["jobsSwept"]) == (1, 0)
    site.make_due()
    assert (await site.run())["completed"] == 1
    site.audit()


async def fate(site: Site, worker: Worker, random: Random) -> tuple[int, set[str]]:
    """A job is claimed, stores and records what it likes, and comes to some end; its id, and its strays."""
    job = await claimed(site, worker, images=3)
    strays: set[str] = set()
    for index in random.sample(range(3), random.randint(1, 3)):  # a claim stores an image once
        path = await put(site, f"{job.folder}/{named(index, str(random.random()).encode())}")
        told = (
            await worker.queue.record_photo(job, index, photo(path), 10.0) if random.random() < 0.6 else None
        )
        if told is None or told.storage_path != path:
            strays.add(path)
    outcome = random.choice(["failed", "cancelled", "retry", "completed"])
    if outcome == "cancelled":
        await site.service.rpc("cancel_generation_batch", {"p_batch_id": job.batch_id}).execute()
    else:
        result = {"jobId": job.id, "fence": job.fence, "outcome": outcome, "message": "x"}
        await worker.queue.rpc("settle_generation_jobs", {"p_results": [result]})
    return job.id, strays


@pytest.mark.parametrize("seed", range(4))
async def test_a_sweep_removes_all_orphans_and_no_object_with_a_row(site: Site, seed: int) -> None:
    """From any state of Storage and the tables; only folders of ended jobs count."""
    random, worker = Random(seed), site.worker()
    fates = [await fate(site, worker, random) for _ in range(8)]
    site.rows(AGE)
    ended = {
        row["id"] for row in site.rows('select id from photo_generation_queue where "completedAt" < now()')
    }
    must_go = {path for job_id, strays in fates if job_id in ended for path in strays}
    before = set(site.objects())

    await worker.sweep(None)

    after = set(site.objects())
    rows = {row["storagePath"] for row in site.photos()}
    assert rows <= after
    assert before - after == must_go
    assert rows and must_go
