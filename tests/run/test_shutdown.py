"""SIGTERM while a call hangs for ever: the answer leaves in time, and only what was sent costs an attempt."""

from __future__ import annotations

import asyncio
import re
import time
from uuid import uuid4

import pytest

from tests.support import faults
from tests.support.fault_calls import CALLS
from tests.support.faults import Exchange, FaultProxy
from tests.support.proxy import Gate, Proxy
from tests.support.runs import MODEL, SOURCES, Site, Summary, picture
from worker.app import Worker
from worker.errors import QueueUnavailable
from worker.run.request import RunRequest
from worker.supabase import storage

KILL_SECONDS = 10.0
"""Cloud Run kills so long after SIGTERM (Cloud Run, "Container runtime contract")."""


async def stopped(worker: Worker, *gates: Gate) -> Summary:
    """The summary of a run that was stopped while each of these calls was pending."""
    run = asyncio.create_task(worker.run(RunRequest()))
    try:
        for gate in gates:
            await gate.reached()
        worker.stop()
        began = time.monotonic()
        await asyncio.wait([run], timeout=60)
        assert run.done()
        assert time.monotonic() - began < KILL_SECONDS
    finally:
        run.cancel()
    return run.result()


def rows(site: Site, *jobs: int) -> list[tuple[str, int, str | None]]:
    """Status, attempts and error code of some jobs."""
    found = [site.job(job) for job in jobs]
    return [(row["status"], row["attempts"], row["errorCode"]) for row in found]


async def test_everything_a_job_waits_for(site: Site) -> None:
    """Whatever each job waits for, all are settled as what they are, and the next run completes them."""
    (listed,) = await site.order("listed")
    queue, earlier = site.worker().queue, uuid4()
    await queue.claim(earlier, uuid4(), 1, 60.0, MODEL, 10.0)
    await queue.finish(earlier, {}, [], 10.0)
    (photo,) = await site.order("photo", photo=await site.upload("slow.png", picture()))
    generate, put, record, refused, limited = await site.order("gen", "put", "record", "refused", "limited")
    site.gemini.add_rule({"kind": "hang"}, prompt="[gen]")
    site.gemini.add_rule({"kind": "finish"}, prompt="[refused]")
    site.gemini.add_rule({"kind": "quota"}, prompt="[limited]")
    async with Proxy(site.stack.url) as proxy:
        paths = (
            "/object/list/",
            "/slow.png",
            f"/{put}/0-",
            "/rpc/record_generated_photo",
            "/rpc/record_failed_image",
            "/rpc/report_rate_limit",
        )
        gates = [proxy.gate(path) for path in paths]
        first = await stopped(site.worker(SUPABASE_URL=proxy.url), *gates)

    assert rows(site, listed, photo) == [("pending", 0, "stopped")] * 2
    assert rows(site, generate) == [("pending", 0, "cut")]
    assert rows(site, put, record, refused) == [("pending", 1, "timeout")] * 3
    assert rows(site, limited) == [("rate_limited", 0, "rate_limited")]
    assert (first["stopReason"], first["claimed"], first["leaseLost"]) == ("shutdown", 7, 0)
    site.make_due()
    second = await site.run()
    assert (second["completed"], second["images"]["adopted"]) == (7, 1)
    site.audit(first, second, lost=1)  # what was being uploaded


async def test_a_shutdown_during_a_hanging_claim_claims_nothing(site: Site) -> None:
    """The caller gets 503."""
    (job,) = await site.order("a")
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("/rpc/claim_generation_jobs")
        with pytest.raises(QueueUnavailable):
            await stopped(site.worker(SUPABASE_URL=proxy.url), gate)
    assert rows(site, job) == [("pending", 0, None)]


async def test_a_shutdown_while_waiting_for_a_start_spends_no_attempt(site: Site) -> None:
    """Nothing has been sent yet."""
    jobs = await site.order("a", "b", images=2)
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("/rpc/take_start_slots")
        summary = await stopped(site.worker(SUPABASE_URL=proxy.url), gate)
    assert rows(site, *jobs) == [("pending", 0, "stopped")] * 2
    assert (summary["stopReason"], summary["images"]["notStarted"], site.calls()) == ("shutdown", 4, [])
    site.audit(summary)


@pytest.mark.parametrize(("example", "attempts"), [("sent", 1), ("unsent", 0)])
async def test_a_shutdown_during_a_hanging_settle_gives_the_job_back(
    site: Site, example: str, attempts: int
) -> None:
    """The job has spent an attempt if a request was sent."""
    site.gemini.add_rule({"kind": "error", "code": 503}, prompt="[sent]", times=None)
    photo = await site.upload("passing.png", picture())
    (job,) = await site.order(example, photo=photo)
    if example == "unsent":
        await site.service.storage.from_(SOURCES).remove([photo.removeprefix(f"{SOURCES}/")])
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("/rpc/settle_generation_jobs")
        summary = await stopped(site.worker(SUPABASE_URL=proxy.url), gate)
    assert rows(site, job) == [("pending", attempts, "released")]
    assert (summary["stopReason"], bool(site.calls())) == ("shutdown", attempts == 1)
    site.audit()


async def test_a_shutdown_during_a_hanging_finish_still_answers(site: Site) -> None:
    """What was settled before stays settled."""
    (job,) = await site.order("a")
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("/rpc/finish_generation_run")
        summary = await stopped(site.worker(SUPABASE_URL=proxy.url), gate)
    assert rows(site, job) == [("completed", 1, None)]
    assert summary["completed"] == 1


async def test_a_shutdown_during_a_hanging_model_change_spends_no_attempt(site: Site) -> None:
    """The run does not wait for the call, and the job goes back."""
    site.gemini.configure(retired=[MODEL])
    (job,) = await site.order("a")
    async with Proxy(site.stack.url) as proxy:
        gate = proxy.gate("/rpc/retire_generation_model")
        summary = await stopped(site.worker(SUPABASE_URL=proxy.url), gate)
    assert rows(site, job)[0][:2] == ("pending", 0)
    assert summary["stopReason"] == "shutdown"
    site.audit(summary)


async def test_a_refusal_of_storage_that_cannot_be_reported(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM also ends the report: the job's attempt is spent, since its image was paid for and lost."""
    monkeypatch.setattr(storage, "STORE_TRIES", 1)
    (job,) = await site.order("a")
    reported = asyncio.Event()

    async def fault(exchange: Exchange) -> None:
        line = exchange.request.split(b"\r\n")[0]
        if b"/rpc/report_storage" in line:
            reported.set()
            await exchange.gone()
        else:
            is_upload = re.search(CALLS["upload"].request.encode(), line)
            await (faults.unavailable if is_upload else faults.nothing)(exchange)

    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(fault, ".", 100_000)
        worker = site.worker(SUPABASE_URL=proxy.url)
        run = asyncio.create_task(worker.run(RunRequest()))
        await asyncio.wait_for(reported.wait(), 60)
        worker.stop()
        summary = await run

    assert (summary["stopReason"], summary["images"]["erred"]) == ("shutdown", 1)
    assert rows(site, job) == [("pending", 1, "unavailable")]
    site.audit(lost=1)
