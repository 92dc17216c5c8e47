"""Who owns a job: images stored by earlier claims, late workers, and cancelled orders."""

import asyncio
import hashlib
from uuid import uuid4

import pytest

from tests.support.proxy import Proxy
from tests.support.runs import MODEL, Site, picture
from worker.jobs import Job
from worker.run.request import RunRequest

HELD = {"kind": "image", "hold": True}


async def claimed_and_released(site: Site, *, images: int) -> Job:
    """A new job that an earlier run has claimed and given back."""
    await site.order("a", images=images)
    queue, run = site.worker().queue, uuid4()
    (job,) = (await queue.claim(run, uuid4(), 1, 60.0, MODEL, 10.0)).jobs
    await queue.finish(run, {}, [], 10.0)
    return job


async def put(site: Site, job: Job, name: str, data: bytes) -> str:
    """Store an object in the job's folder, as a worker might have before it died; its path."""
    bucket = site.service.storage.from_("generated-photos")
    await bucket.upload(f"{job.folder}/{name}", data, {"content-type": "image/png"})
    return f"{job.folder}/{name}"


def named(index: int, data: bytes) -> str:
    """The name a worker gives an image."""
    return f"{index}-{hashlib.sha256(data).hexdigest()[:16]}"


async def test_an_image_stored_but_not_recorded_is_recorded_not_made_again(site: Site) -> None:
    """An earlier claim stored it and then failed."""
    job = await claimed_and_released(site, images=3)
    data = picture("orange")
    path = await put(site, job, named(1, data), data)

    summary = await site.run()

    rows = site.photos(job.id)
    assert [row["imageIndex"] for row in rows] == [0, 1, 2]
    adopted = rows[1]
    assert (adopted["storagePath"], adopted["bytes"]) == (path, len(data))
    assert (adopted["width"], adopted["height"], adopted["mimeType"]) == (96, 64, "image/png")
    assert (summary["images"]["adopted"], summary["images"]["made"]) == (1, 2)
    assert len(site.calls()) == 2
    site.audit(summary, foreign=1)


async def test_a_recorded_image_is_not_read_again_when_its_job_is_retried(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job may have many; only the missing ones may be waiting in Storage."""
    monkeypatch.setattr("worker.run.image.LONGEST_RETRY_SECONDS", 0.0)
    site.gemini.add_rule({"kind": "image"}, times=1)
    site.gemini.add_rule({"kind": "error", "code": 503}, times=2)
    await site.order("a", images=2)
    first = await site.run(RunRequest(max_jobs=1), IMAGES_AT_A_TIME="1")
    site.make_due()

    async with Proxy(site.stack.url) as proxy:
        second = await site.run(SUPABASE_URL=proxy.url)

    assert (first["images"]["made"], second["images"]["made"]) == (1, 1)
    assert any("/object/list/" in path for path in proxy.paths)
    assert not any("/object/info/" in path for path in proxy.paths)
    site.audit(first, second)


async def test_a_job_with_all_images_stored_completes_without_photos_or_requests(site: Site) -> None:
    """An earlier claim stored them."""
    job = await claimed_and_released(site, images=2)
    for index, colour in enumerate(("orange", "purple")):
        await put(site, job, named(index, picture(colour)), picture(colour))
    async with Proxy(site.stack.url) as proxy:
        summary = await site.run(SUPABASE_URL=proxy.url)

        assert not any("me.png" in path for path in proxy.paths)
    assert (summary["completed"], summary["images"]["adopted"], site.calls()) == (1, 2, [])
    site.audit(summary, foreign=2)


async def test_only_own_names_are_adopted(site: Site) -> None:
    """Of several objects for an image one is used; other names, other indexes and non-images are ignored."""
    job = await claimed_and_released(site, images=2)
    data = picture("orange")
    names = [
        named(0, data),
        named(0, picture("purple")),
        named(7, data),
        "notes.txt",
        "1-short",
        "x-" + "0" * 16,
    ]
    paths = [await put(site, job, name, data) for name in names]
    await put(site, job, "1-" + "0" * 16, b"this is no image")

    summary = await site.run()

    first, second = site.photos(job.id)
    assert first["storagePath"] in paths[:2]
    assert second["storagePath"] not in paths
    assert (summary["images"]["adopted"], summary["images"]["made"], len(site.calls())) == (1, 1, 1)


async def test_an_object_that_disappears_during_recovery_is_made_again(site: Site) -> None:
    """Another worker removed it between listing and reading."""
    job = await claimed_and_released(site, images=1)
    path = await put(site, job, named(0, picture("orange")), picture("orange"))
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("/object/info/")
        run = asyncio.create_task(site.run(SUPABASE_URL=proxy.url))
        await gate.reached()
        await site.service.storage.from_("generated-photos").remove([path])
        gate.open()
        summary = await run

    assert (summary["completed"], summary["images"]["made"]) == (1, 1)
    site.audit(summary)


@pytest.mark.usefixtures("no_backoff")
async def test_complete_job_is_settled(site: Site) -> None:
    """A job whose worker died between the last record and the settle is settled without a call."""
    (job,) = await site.order("a", images=2)
    async with Proxy(site.stack.url) as proxy:
        proxy.cut_at("/rpc/settle_generation_jobs")
        first = await site.run(RunRequest(budget_seconds=6), SUPABASE_URL=proxy.url)
    assert (first["images"]["made"], site.job(job)["status"]) == (2, "processing")

    site.expire_leases()
    second = await site.run()

    assert (second["completed"], second["images"]["made"], second["images"]["adopted"]) == (1, 0, 0)
    assert len(site.calls()) == 2
    site.audit()


async def test_a_late_worker_removes_its_own_image(site: Site) -> None:
    """Another one recorded the image first."""
    site.gemini.add_rule(HELD)
    (job,) = await site.order("a")
    late = asyncio.create_task(site.run())
    await site.open_calls(1)
    site.expire_leases()
    winner = await site.run()
    row, photo = site.job(job), site.photos(job)
    assert (row["status"], len(photo)) == ("completed", 1)

    site.gemini.release()
    loser = await late

    assert (loser["leaseLost"], loser["images"]["discarded"], loser["images"]["made"]) == (1, 1, 0)
    assert site.job(job) == row | {"due": None}
    assert site.photos(job) == photo
    assert set(site.objects()) == {photo[0]["storagePath"]}
    site.audit(winner, loser)


async def test_the_first_worker_to_record_wins_without_a_lease(site: Site) -> None:
    """The holder of the lease removes its own."""
    site.gemini.add_rule(HELD)
    (job,) = await site.order("a")
    late = asyncio.create_task(site.run())
    await site.open_calls(1)
    site.expire_leases()
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("/object/generated-photos/")
        holder = asyncio.create_task(site.run(SUPABASE_URL=proxy.url))
        await gate.reached()
        site.gemini.release()
        first = await late
        gate.open()
        second = await holder

    assert (first["images"]["made"], first["leaseLost"]) == (1, 1)
    assert (second["images"]["discarded"], second["completed"]) == (1, 1)
    assert site.job(job)["status"] == "completed"
    site.audit(first, second)


async def test_late_settle_changes_nothing(site: Site) -> None:
    """A worker that settles too late leaves the job to the worker that has it now."""
    site.gemini.add_rule({"kind": "error", "code": 400, "hold": True})
    site.gemini.add_rule(HELD)
    (job,) = await site.order("a")
    late = asyncio.create_task(site.run())
    await site.open_calls(1)
    site.expire_leases()
    site.gemini.add_rule(HELD)
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("/object/generated-photos/")
        holder = asyncio.create_task(site.run(SUPABASE_URL=proxy.url))
        await site.open_calls(2)
        held = site.job(job)
        site.gemini.release()
        await gate.reached()
        loser = await late
        assert site.job(job)["lockedBy"] == held["lockedBy"]
        gate.open()
        winner = await holder

    assert (loser["leaseLost"], loser["failed"], winner["completed"]) == (1, 0, 1)
    assert site.job(job)["errorCode"] is None
    site.audit(loser, winner)


async def test_an_image_of_a_cancelled_order_is_discarded_and_counted(site: Site) -> None:
    """No other image is started."""
    site.gemini.add_rule(HELD)
    (job,) = await site.order("a", images=3)
    run = asyncio.create_task(site.run(IMAGES_AT_A_TIME="1"))
    await site.open_calls(1)
    await site.service.rpc("cancel_generation_batch", {"p_batch_id": site.job(job)["batchId"]}).execute()
    cancelled = site.job(job)

    site.gemini.release()
    summary = await run

    assert (summary["images"]["discarded"], summary["images"]["notStarted"], summary["leaseLost"]) == (
        1,
        2,
        1,
    )
    assert (len(site.calls()), site.objects(), site.photos()) == (1, {}, [])
    assert site.job(job) == cancelled | {"leaseExpiresAt": None}
    assert (cancelled["status"], site.batch(job)) == ("cancelled", "cancelled")
    assert [row["requestsSent"] for row in site.rows("select * from generation.flows")] == [1]
    site.audit(summary, await site.run())


async def test_cancelled_neighbours_go_on(site: Site) -> None:
    """Cancelling one order ends its jobs alone; photos already made of it stay."""
    (stays,) = await site.order("stays", images=2)
    site.gemini.add_rule({"kind": "image"}, prompt="[goes]")
    site.gemini.add_rule(HELD, prompt="[goes]")
    (goes,) = await site.order("goes", images=2)
    run = asyncio.create_task(site.run(IMAGES_AT_A_TIME="4"))
    await site.until_row('select from photo_generation_photos where "jobId" = %s', goes)
    await site.open_calls(1)
    await site.service.rpc("cancel_generation_batch", {"p_batch_id": site.job(goes)["batchId"]}).execute()
    site.gemini.release()
    summary = await run

    assert (site.job(stays)["status"], site.batch(stays)) == ("completed", "completed")
    assert (site.job(goes)["status"], len(site.photos(goes))) == ("cancelled", 1)
    assert (summary["completed"], summary["leaseLost"], summary["images"]["discarded"]) == (1, 1, 1)
    site.audit(summary)
