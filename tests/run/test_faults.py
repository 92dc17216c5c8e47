"""The fault matrix: each call of a run × each fault of a network, a gateway or a server.

With any fault the run answers in time, the next one completes the rest, and no image that had arrived is
requested again.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator

import pytest

from tests.support import faults
from tests.support.fault_calls import CALLS, GEMINI, Call, held, overtaken
from tests.support.faults import Fault, FaultProxy
from tests.support.queue_invariants import check_invariants
from tests.support.runs import BUSY_SECONDS, USUAL, Site
from worker.app import Worker
from worker.errors import QueueUnavailable
from worker.run.request import RunRequest
from worker.supabase import storage

FAULTS: dict[str, Fault] = {
    "reset": faults.reset,
    "stall": faults.stall,
    "half_answer": faults.half_answer,
    "answer_lost": faults.answer_lost,
    "duplicate": faults.duplicate,
    "late_duplicate": faults.late_duplicate,
    "drip": faults.drip,
    "unavailable": faults.unavailable,
    "bad_gateway": faults.bad_gateway,
}
QUICK = ("stall", "answer_lost")
"""No answer, and one that gets lost: tried for each call by `make test`; the other faults only for SETTLE."""

SETTLE = "settle_generation_jobs"
MATRIX = [
    pytest.param(name, fault, marks=() if fault in QUICK or name == SETTLE else pytest.mark.slow)
    for name in CALLS
    for fault in FAULTS
]
SHORT_BUDGET = 3.0
"""For a run whose call is silent or never heard: only its deadlines end that."""

READING = ("take_start_slots", "bucket", "download", "list", "info", "adopt")
"""Calls that leave nothing behind that an answer would have to tell of."""

DEADLINES = ("claim_generation_jobs", "take_start_slots", "download", "upload", "settle_generation_jobs")
"""One call for each of a run's deadlines."""


def quick(name: str) -> object:
    """A call's name as a parameter; of all calls `make test` takes one of the database and one of Storage."""
    return pytest.param(name, marks=() if name in (SETTLE, "upload") else pytest.mark.slow)


PAID_IN_VAIN = {"half_answer": 1, "answer_lost": 1, "duplicate": 1, "late_duplicate": 1}
"""Images lost by a fault of a call to Gemini: it made them, and they did not arrive."""


@pytest.fixture(autouse=True)
def _no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the certificates that plain HTTP never uses would take a third of the matrix's time."""
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)


@pytest.fixture(autouse=True)
def _nothing_unexpected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Every fault is met where it is expected: none gets as far as the boundary around a job."""
    yield
    assert "job_crashed" not in [record.getMessage() for record in caplog.get_records("call")]


async def disturbed(
    site: Site, proxy: FaultProxy, call: Call, fault: Fault, times: int = 1, **settings: str
) -> Worker:
    """A worker that did a run whose first `times` calls met the fault, and that ended in time."""
    budget = SHORT_BUDGET if fault is faults.stall or times > 1 else 15.0
    await call.arrange(site)
    proxy.inject(fault, call.request, times)
    worker = site.worker(**settings)
    worker.gemini.prepare()  # importing the SDK may take as long as a short budget
    began = time.monotonic()
    run = asyncio.create_task(worker.run(RunRequest(budget_seconds=budget)))
    if call.meanwhile:
        await call.meanwhile(site)
    try:
        await run
    except QueueUnavailable:
        assert call is CALLS["claim_generation_jobs"]
    assert time.monotonic() - began < budget + BUSY_SECONDS
    assert proxy.struck, proxy.seen
    await proxy.deliver_late()
    check_invariants(site.db)
    return worker


async def complete(site: Site, worker: Worker) -> None:
    """Have the worker do another run, undisturbed, once leases and waits are over: it completes every job."""
    site.expire_leases()
    site.make_due()
    await worker.run(USUAL)
    jobs = site.rows("select * from photo_generation_queue")
    assert {job["status"] for job in jobs} == {"completed"}, jobs


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize(("name", "fault"), MATRIX)
async def test_one_fault_at_one_call_loses_no_image_and_pays_for_none_twice(
    site: Site, name: str, fault: str
) -> None:
    """Each call to Supabase meets each fault."""
    call = CALLS[name]
    async with FaultProxy(site.stack.url) as proxy:
        worker = await disturbed(site, proxy, call, FAULTS[fault], SUPABASE_URL=proxy.url)
        await complete(site, worker)

    site.audit(lost=call.discarded, foreign=call.foreign)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_one_call_to_gemini_costs_at_most_its_image(
    site: Site, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other images are made."""
    async with FaultProxy(site.gemini.url) as proxy:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", proxy.url)
        worker = await disturbed(site, proxy, GEMINI, FAULTS[fault])
        await complete(site, worker)

    site.audit(lost=PAID_IN_VAIN.get(fault, 0))


@pytest.mark.parametrize("name", [quick(name) for name in CALLS if name not in READING])
async def test_a_run_ends_in_time_if_one_calls_answers_are_always_lost(site: Site, name: str) -> None:
    """The next run completes all jobs."""
    await _for_good(site, CALLS[name], faults.answer_lost)


@pytest.mark.parametrize("name", [quick(name) for name in DEADLINES])
async def test_a_trickling_answer_is_cut_at_the_runs_deadline(site: Site, name: str) -> None:
    """The answer never pauses for long, so only the deadline ends it."""
    await _for_good(site, CALLS[name], faults.trickle)


async def _for_good(site: Site, call: Call, fault: Fault) -> None:
    async with FaultProxy(site.stack.url) as proxy:
        worker = await disturbed(site, proxy, call, fault, 1000, SUPABASE_URL=proxy.url)
        proxy.inject(faults.nothing, "")
        await complete(site, worker)

    site.audit(lost=call.discarded, foreign=call.foreign)


@pytest.mark.parametrize("max_jobs", [2, 100])
async def test_nothing_more_is_paid_for_once_storage_refused_an_image(
    site: Site, monkeypatch: pytest.MonkeyPatch, max_jobs: int
) -> None:
    """Jobs that have not started go back unspent, and are not claimed again by this run."""
    monkeypatch.setattr(storage, "STORE_TRIES", 2)
    site.gemini.add_rule({"kind": "image", "hold": True}, times=1)
    jobs = await site.order(*"abcd", images=2)
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(faults.unavailable, CALLS["upload"].request, 1000)
        worker = site.worker(SUPABASE_URL=proxy.url, IMAGES_AT_A_TIME="2")
        run = asyncio.create_task(worker.run(RunRequest(max_jobs=max_jobs)))
        await site.until_row("select from photo_generation_queue where \"errorCode\" = 'stopped'")
        await asyncio.sleep(1)
        site.gemini.release()
        summary = await run
        proxy.inject(faults.nothing, "")
        paid = len(site.calls())
        assert (summary["stopReason"], summary["claimed"], summary["retried"]) == ("queue_lost", 2, 2)
        assert paid == 2
        assert sum(site.job(job)["attempts"] for job in jobs) == 1
        await complete(site, worker)

    site.audit(lost=paid)


async def test_a_discarded_image_counts_even_if_its_object_cannot_be_removed(site: Site) -> None:
    """A sweep removes it later."""
    await held(site)
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(faults.reset, CALLS["remove"].request, 1000)
        run = asyncio.create_task(site.run(SUPABASE_URL=proxy.url))
        await overtaken(site)
        summary = await run

    images = summary["images"]
    assert (summary["completed"], images["discarded"], images["erred"]) == (1, 1, 0)
    assert len(set(site.objects()) - {row["storagePath"] for row in site.photos()}) == 1
