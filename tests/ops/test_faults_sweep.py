"""Each call of a sweep fails in each way: later sweeps remove the rest, and never a photo with a row."""

from __future__ import annotations

import contextlib
import time

import pytest

from tests.support import faults
from tests.support.fault_calls import OBJECT, rpc
from tests.support.faults import Fault, FaultProxy
from tests.support.runs import BUSY_SECONDS, Site
from tests.support.strays import cancelled, claimed, named, photo, put
from worker.errors import QueueUnavailable
from worker.ops.sweep import Sweep
from worker.supabase.folders import Folders
from worker.supabase.storage import BUCKET

SWEEPING = {
    "generation_erasures_to_sweep": rpc("generation_erasures_to_sweep"),
    "settle_generation_erasure": rpc("settle_generation_erasure"),
    "generation_jobs_to_sweep": rpc("generation_jobs_to_sweep"),
    "settle_swept_generation_jobs": rpc("settle_swept_generation_jobs"),
    "list": f"POST {OBJECT}/list/{BUCKET}$",
    "remove": f"DELETE {OBJECT}/{BUCKET}$",
    "list_erased": f"POST {OBJECT}/list/{BUCKET}$",
    "remove_erased": f"DELETE {OBJECT}/{BUCKET}$",
}
"""Erased users are swept first: where there is one, its folder is the first that is listed and emptied."""

FAULTS: dict[str, Fault] = {
    "reset": faults.reset,
    "stall": faults.stall,
    "answer_lost": faults.answer_lost,
    "late_duplicate": faults.late_duplicate,
}
SWEEP_SECONDS = 3.0

LATER = """
    with jobs as (update photo_generation_queue set "sweepUntil" = now() where "sweepUntil" is not null)
    update generation.erasures set "requestedAt" = "requestedAt" - interval '10 minutes' returning 1"""
LEFT = "select name from storage.objects where bucket_id = 'generated-photos' and name like 'gone/%%'"


async def strays(site: Site) -> str:
    """A cancelled job with a photo and a stray; the path of the photo."""
    worker = site.worker()
    job = await claimed(site, worker, images=2)
    kept = await put(site, f"{job.folder}/{named(0, b'kept')}")
    assert (await worker.queue.record_photo(job, 0, photo(kept), 10.0)).result == "recorded"
    await put(site, f"{job.folder}/{named(1, b'stray')}")
    await cancelled(site, job)
    return kept


async def erased_user(site: Site) -> None:
    """An erased user with one remaining object."""
    await site.service.rpc("erase_generation_user", {"p_user_id": "gone"}).execute()
    await put(site, "gone/b/1/0-a")


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        pytest.param(
            name, fault, marks=() if fault == "answer_lost" or name == "remove" else pytest.mark.slow
        )
        for name in SWEEPING
        for fault in FAULTS
    ],
)
async def test_a_disturbed_sweep_ends_in_time_and_later_ones_finish_its_work(
    site: Site, name: str, fault: str
) -> None:
    """No object that has a row is ever removed."""
    kept = await strays(site)
    if name not in ("list", "remove"):
        await erased_user(site)
    async with FaultProxy(site.stack.url) as proxy:
        worker = site.worker(SUPABASE_URL=proxy.url)
        proxy.inject(FAULTS[fault], SWEEPING[name])
        began = time.monotonic()
        with contextlib.suppress(QueueUnavailable):
            folders = Folders(worker.project)
            await Sweep(worker.queue, folders, time.monotonic, SWEEP_SECONDS, worker.stopping).run(10)
        assert time.monotonic() - began < SWEEP_SECONDS + BUSY_SECONDS
        assert proxy.struck == 1, proxy.seen
        await proxy.deliver_late()
        assert kept in site.objects()
        for _ in range(3):
            site.rows(LATER)
            await worker.sweep(None)

    assert set(site.objects()) == {kept}
    assert (site.rows(LEFT), site.rows("select from generation.erasures")) == ([], [])
    assert site.rows('select from photo_generation_queue where "sweptAt" is null') == []
