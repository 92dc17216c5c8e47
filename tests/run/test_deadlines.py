"""A run answers in time whatever Gemini, Supabase or a photo host does, and loses nothing."""

import asyncio
import logging
import time

import pytest

from tests.support.proxy import Proxy
from tests.support.runs import BUSY_SECONDS, MODEL, Site, Summary, picture
from worker.errors import QueueUnavailable
from worker.run.deadlines import Deadlines
from worker.run.request import RunRequest

HELD = {"kind": "image", "hold": True}


async def timed(site: Site, budget: float, **settings: str) -> Summary:
    """The summary of a run that answered, or failed, when its budget was over."""
    site.worker().gemini.prepare()  # importing the SDK may take as long as a short budget
    began = time.monotonic()
    try:
        return await site.run(RunRequest(budget_seconds=budget), **settings)
    finally:
        assert time.monotonic() - began < budget + BUSY_SECONDS


async def test_hanging_calls_are_cut(site: Site) -> None:
    """Calls that hang or drip are cut and counted; in so short a run their attempt is spent."""
    site.gemini.add_rule({"kind": "hang", "images": 1}, prompt="[a]", times=1)
    site.gemini.add_rule({"kind": "hang"}, prompt="[a]", times=1)
    site.gemini.add_rule({"kind": "drip", "seconds": 30.0}, prompt="[b]", times=1)
    a, b, c = await site.order("a", "b", "c", images=2)

    first = await timed(site, 6)

    for row in (site.job(a), site.job(b)):
        assert (row["status"], row["attempts"], row["errorCode"]) == ("pending", 1, "cut")
    assert (first["images"]["cut"], first["stopReason"]) == (3, "budget")
    assert (first["retried"], first["completed"], site.job(c)["status"]) == (2, 1, "completed")
    await site.until(lambda ledger: ledger.outcomes().get("cut") == 3)
    assert site.gemini.ledger.paid_and_cut() == 2  # never more than calls under way when they are cut
    site.make_due()
    second = await site.run()
    assert {site.job(job)["status"] for job in (a, b)} == {"completed"}
    site.audit(first, second)


async def test_a_photo_cut_by_the_runs_end_spends_no_attempt(site: Site) -> None:
    """The photo delays no other job, and its own job waits for its user's next turn."""
    slow = await site.upload("slow.png", picture())
    (a,) = await site.order("a", photo=slow)
    (b,) = await site.order("b")
    async with Proxy(site.stack.url) as proxy:
        proxy.gate("slow.png")
        summary = await timed(site, 6, SUPABASE_URL=proxy.url)

    row = site.job(a)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("pending", 0, "photos_not_ready")
    assert row["retryAt"] is not None
    assert (summary["images"]["notStarted"], site.job(b)["status"]) == (1, "completed")
    assert len(site.calls()) == 1
    site.audit(summary)


async def test_a_job_whose_photos_had_little_time_keeps_its_place(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job was claimed late in the run, or waited for others' memory: its photos are not the cause."""
    monkeypatch.setattr(Deadlines, "fair_seconds", 60.0)
    (a,) = await site.order("a", photo=await site.upload("slow.png", picture()))
    async with Proxy(site.stack.url) as proxy:
        proxy.gate("slow.png")
        await timed(site, 4, SUPABASE_URL=proxy.url)

    row = site.job(a)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("pending", 0, "budget")
    assert row["retryAt"] is None


async def test_nothing_starts_that_cannot_finish(site: Site) -> None:
    """With a model that is known to take long, a short run starts nothing and gives its jobs back unspent."""
    site.rows(
        'insert into photo_generation_photos ("jobId", "batchId", "userId", "imageIndex", "storagePath",'
        ' "mimeType", width, height, bytes, model, "generationMs")'
        " values (0, 'old', 'old', 0, 'old', 'image/png', 1, 1, 1, %s, 4000) returning id",
        MODEL,
    )
    jobs = await site.order("a", "b", images=2)

    short = await timed(site, 5)

    assert site.calls() == []
    assert (short["stopReason"], short["retried"], short["images"]["notStarted"]) == ("budget", 2, 4)
    assert [(site.job(job)["status"], site.job(job)["attempts"]) for job in jobs] == [("pending", 0)] * 2
    long = await site.run(RunRequest(budget_seconds=30))
    assert long["completed"] == 2
    site.rows('delete from photo_generation_photos where "jobId" = 0 returning id')
    site.audit(short, long)


async def test_a_stopped_run_ends_in_seconds(site: Site) -> None:
    """The run keeps images that end in time, cancels the rest, and releases the other jobs."""
    site.gemini.add_rule(HELD, prompt="[kept]")
    site.gemini.add_rule({"kind": "hang"}, prompt="[cut]")
    kept, cut, unstarted = await site.order("kept", "cut", "unstarted")
    worker = site.worker(IMAGES_AT_A_TIME="2")
    run = asyncio.create_task(worker.run(RunRequest()))
    await site.open_calls(2)

    began = time.monotonic()
    worker.stop()
    site.gemini.release()
    summary = await run

    assert time.monotonic() - began < BUSY_SECONDS
    assert summary["stopReason"] == "shutdown"
    assert [site.job(job)["status"] for job in (kept, cut, unstarted)] == ["completed", "pending", "pending"]
    assert [site.job(job)["attempts"] for job in (kept, cut, unstarted)] == [1, 0, 0]
    assert (summary["images"]["made"], summary["images"]["cut"], summary["images"]["notStarted"]) == (1, 1, 1)
    assert len(site.calls()) == 2
    site.make_due()
    site.audit(summary, await site.run())


async def test_stop_during_a_claim(site: Site) -> None:
    """Jobs that were given to a stopped run go back unspent, without a request."""
    (job,) = await site.order("a")
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("/rpc/claim_generation_jobs")
        worker = site.worker(SUPABASE_URL=proxy.url)
        run = asyncio.create_task(worker.run(RunRequest()))
        await gate.reached()
        worker.stop()
        gate.open()
        summary = await run

    assert (summary["stopReason"], summary["claimed"], summary["images"]["notStarted"]) == ("shutdown", 1, 1)
    assert (site.job(job)["status"], site.job(job)["attempts"], site.calls()) == ("pending", 0, [])
    site.audit(summary)


async def test_stopped_worker_starts_nothing(site: Site) -> None:
    """A stopped worker's run claims nothing."""
    (job,) = await site.order("a")
    worker = site.worker()
    worker.stop()

    summary = await worker.run(RunRequest())

    assert (summary["stopReason"], summary["claimed"]) == ("shutdown", 0)
    assert site.job(job)["attempts"] == 0


@pytest.mark.usefixtures("no_backoff")
async def test_supabase_unreachable_at_start(site: Site) -> None:
    """A run that cannot reach Supabase raises, so that the caller gets 503; nothing changes."""
    (job,) = await site.order("a")

    with pytest.raises(QueueUnavailable):
        await site.run(RunRequest(budget_seconds=2), SUPABASE_URL="http://127.0.0.1:9")

    assert (site.job(job)["status"], site.calls()) == ("pending", [])


async def test_supabase_silent_at_start(site: Site) -> None:
    """A Supabase that accepts the claim and never answers does not keep a run beyond its budget."""
    await site.order("a")
    async with Proxy(site.stack.url) as proxy:
        proxy.gate("/rpc/")
        with pytest.raises(QueueUnavailable):
            await timed(site, 2, SUPABASE_URL=proxy.url)


async def test_supabase_lost_while_generating(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Without Supabase a run still answers in time; after the lease another run continues."""
    caplog.set_level(logging.INFO)
    site.gemini.add_rule(HELD, prompt="[a]", times=1)
    a, b = await site.order("a", "b")
    async with Proxy(site.stack.url) as proxy:
        run = asyncio.create_task(timed(site, 4, SUPABASE_URL=proxy.url))
        while "job_completed" not in caplog.messages and not run.done():
            await asyncio.sleep(0.01)  # the row alone does not say that the run has heard of it
        proxy.cut()
        site.gemini.release()
        first = await run

    assert site.job(a)["status"] == "processing"
    assert (first["images"]["made"], first["images"]["erred"]) == (1, 1)
    site.expire_leases()
    second = await site.run()
    assert {site.job(job)["status"] for job in (a, b)} == {"completed"}
    assert site.job(a)["crashes"] <= 1
    # The one image that came back while there was nowhere to put it.
    site.audit(lost=1)
    assert second["images"]["made"] == 1


async def test_supabase_lost_before_record(site: Site) -> None:
    """An image that was stored but could not be recorded is found again, not paid for again."""
    await site.order("a", images=2)
    async with Proxy(site.stack.url) as proxy:
        proxy.cut_at("/rpc/record_generated_photo")
        first = await timed(site, 6, SUPABASE_URL=proxy.url)
    # The second image may have found Supabase lost before it had its start.
    asked, stored = len(site.calls()), len(site.objects())
    assert first["images"]["made"] == 0
    assert 1 <= stored <= asked <= first["images"]["erred"]

    site.expire_leases()
    second = await site.run()

    assert (second["images"]["adopted"], second["images"]["made"]) == (stored, 2 - stored)
    site.audit(lost=asked - stored)


async def test_supabase_back_in_time(site: Site) -> None:
    """A short loss of Supabase is bridged within the run: no image is lost, no attempt wasted."""
    site.gemini.add_rule(HELD)
    (job,) = await site.order("a")
    async with Proxy(site.stack.url) as proxy:
        run = asyncio.create_task(site.run(SUPABASE_URL=proxy.url))
        await site.open_calls(1)
        proxy.cut()
        proxy.repair()
        proxy.lose_answer("/object/generated-photos/")
        site.gemini.release()
        summary = await run

    assert (summary["completed"], site.job(job)["attempts"], len(site.calls())) == (1, 1, 1)
    site.audit(summary)


@pytest.mark.parametrize(
    "function",
    ["claim_generation_jobs", "record_generated_photo", "settle_generation_jobs", "finish_generation_run"],
)
async def test_a_call_whose_answer_is_lost_is_repeated_safely(site: Site, function: str) -> None:
    """The database had committed it."""
    (job,) = await site.order("a", images=2)
    async with Proxy(site.stack.url) as proxy:
        proxy.lose_answer(f"/rpc/{function}")
        summary = await site.run(SUPABASE_URL=proxy.url)

        assert proxy.paths.count(f"/rest/v1/rpc/{function}") >= 2
    assert (site.job(job)["status"], site.job(job)["attempts"]) == ("completed", 1)
    assert (len(site.calls()), summary["images"]["made"]) == (2, 2)
    site.audit()


async def test_claim_lost_for_good(site: Site) -> None:
    """Jobs given out in an answer that never arrived are given back unspent by finishing the run."""
    (job,) = await site.order("a")
    async with Proxy(site.stack.url) as proxy:
        proxy.lose_answer("/rpc/claim_generation_jobs", times=100)
        with pytest.raises(QueueUnavailable):
            await timed(site, 4, SUPABASE_URL=proxy.url)

    row = site.job(job)
    assert (row["status"], row["attempts"], row["startedAt"] is None) == ("pending", 0, False)


async def test_a_cancelled_run_ends(site: Site) -> None:
    """The run ends even if it is cancelled while it finishes."""
    await site.order("a")
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("/rpc/finish_generation_run")
        run = asyncio.create_task(site.run(SUPABASE_URL=proxy.url))
        await gate.reached()
        run.cancel()
        await asyncio.wait([run])

    assert run.cancelled()


async def test_a_cancelled_run_works_on_nothing_more(site: Site) -> None:
    """Its calls are cut and its jobs are given back, as if its time were up."""
    site.gemini.add_rule({"kind": "hang"}, times=1)
    (job,) = await site.order("a")
    run = asyncio.create_task(site.run())
    await site.open_calls(1)
    run.cancel()
    await asyncio.wait([run])

    assert (run.cancelled(), site.job(job)["status"]) == (True, "pending")
    await site.until(lambda ledger: ledger.outcomes().get("cut") == 1)
