"""Storage refuses what was paid for: it is paid for once, and nothing more until Storage takes an image."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest
from psycopg.types.json import Jsonb

from tests.support import faults
from tests.support.fault_calls import OBJECT
from tests.support.faults import Exchange, Fault, FaultProxy, refusal
from tests.support.runs import Site, picture
from worker.run.request import RunRequest
from worker.supabase import storage
from worker.supabase.storage import BUCKET
from worker.supabase.storage_proof import FOLDER

UPLOAD = f"POST {OBJECT}/{BUCKET}/"
DENIED = {
    "statusCode": "403",
    "error": "Unauthorized",
    "message": "new row violates row-level security policy",
}
TOO_LARGE = {"statusCode": "413", "error": "Payload too large", "message": "The object exceeded the maximum"}
NO_BUCKET = {"statusCode": "404", "error": "Bucket not found", "message": "Bucket not found"}
WRONG_TYPE = {"statusCode": "415", "error": "invalid_mime_type", "message": "mime type is not supported"}

REFUSALS: dict[str, tuple[Fault, str]] = {
    "denied": (refusal("400 Bad Request", DENIED), "misconfigured"),
    "too large": (refusal("413 Payload Too Large", TOO_LARGE), "misconfigured"),
    "wrong type": (refusal("400 Bad Request", WRONG_TYPE), "misconfigured"),
    "no bucket": (refusal("400 Bad Request", NO_BUCKET), "misconfigured"),
    "outage": (faults.unavailable, "queue_lost"),
    "no answer": (faults.reset, "queue_lost"),
}


@pytest.fixture(autouse=True)
def _few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "STORE_TRIES", 2)


def remembered(site: Site) -> list[object]:
    """The refusals that the database has recorded."""
    return [row["r"] for row in site.rows('select "storageRefused" as r from generation.limits')]


def probes(site: Site) -> int:
    """The number of probes in the bucket, including those of other tests whose removal failed on purpose."""
    return len(site.rows("select from storage.objects where starts_with(name, %s)", f"{FOLDER}/"))


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("name", REFUSALS)
async def test_an_image_that_storage_refuses_is_paid_for_once(site: Site, name: str) -> None:
    """However many runs come while Storage refuses, an order of two images is paid for once."""
    fault, reason = REFUSALS[name]
    left_before = probes(site)
    (job,) = await site.order("a", images=2)
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(fault, UPLOAD, 1000)
        summaries = [await site.run(SUPABASE_URL=proxy.url)]
        paid = len(site.calls())
        for _ in range(7):
            site.make_due()
            summaries.append(await site.run(SUPABASE_URL=proxy.url))

    assert {summary["stopReason"] for summary in summaries} == {reason}
    assert all(summary["problem"] for summary in summaries)
    assert len(site.calls()) == paid <= 2, "only the first run paid"
    assert (site.job(job)["status"], site.job(job)["attempts"]) == ("pending", 1)
    site.make_due()
    last = await site.run()
    assert (last["completed"], site.job(job)["attempts"], len(site.calls())) == (1, 2, paid + 2)
    assert (remembered(site), probes(site)) == ([None], left_before)
    site.audit(*summaries, last, lost=paid)


async def test_a_limit_by_size_is_tried_with_that_size(site: Site) -> None:
    """A small probe would prove nothing if Storage refuses only large objects."""
    refuse = refusal("413 Payload Too Large", TOO_LARGE)

    async def by_size(exchange: Exchange) -> None:
        await (refuse if len(exchange.request) > 1_800 else faults.nothing)(exchange)

    await site.order("a")
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(by_size, UPLOAD, 1000)
        first = await site.run(SUPABASE_URL=proxy.url)
        site.make_due()
        second = await site.run(SUPABASE_URL=proxy.url)
        assert len(site.calls()) == 1
    assert first["stopReason"] == second["stopReason"] == "misconfigured"
    assert "size limit" in first["problem"]


async def test_a_refusal_is_remembered_while_its_job_goes_on(site: Site) -> None:
    """Other workers, and those after a crash of this one, know of a refusal before its job has ended."""
    site.gemini.add_rule({"kind": "image", "hold": True}, times=1)
    site.gemini.add_rule({"kind": "image"}, times=1)
    await site.order("a", images=2)
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(REFUSALS["denied"][0], UPLOAD, 1000)
        run = asyncio.create_task(site.run(SUPABASE_URL=proxy.url))
        await site.until_row('select from generation.limits where "storageRefused" is not null')
        assert not any("settle" in line for line in proxy.seen)
        site.gemini.release()
        await run


async def test_a_run_under_way_pays_for_nothing_more(site: Site) -> None:
    """If another run's image is refused, an active run proves Storage before it starts more jobs."""
    site.gemini.add_rule({"kind": "image", "hold": True}, times=1)
    first, second = await site.order("a", "b")
    settings = {"JOBS_AT_A_TIME": "1"}
    async with FaultProxy(site.stack.url) as proxy:
        run = asyncio.create_task(site.run(SUPABASE_URL=proxy.url, **settings))
        await site.open_calls(1)
        facts = '\'{"bytes": 10, "mimeType": "image/png"}\''
        site.rows(f"select report_storage(false, {facts})")
        proxy.inject(REFUSALS["denied"][0], f"{UPLOAD}(=|%3D)probe", 1000)
        site.gemini.release()
        summary = await run
    assert (site.job(first)["status"], site.job(second)["status"]) == ("completed", "pending")
    assert (site.job(second)["attempts"], len(site.calls())) == (0, 1)
    assert (summary["stopReason"], summary["images"]["notStarted"]) == ("misconfigured", 1)
    site.audit(summary)


async def test_a_probe_that_proves_nothing_is_believed_ever_less(site: Site) -> None:
    """If Storage accepts probes but refuses images, the wait before the next probe grows."""
    left_before = probes(site)
    (job,) = await site.order("a")
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(REFUSALS["denied"][0], f"{UPLOAD}(?!(=|%3D)probe)", 1000)
        for _ in range(8):
            site.make_due()
            last = await site.run(SUPABASE_URL=proxy.url)
        assert len(site.calls()) == 2, "the first, and one after the first probe"
        assert last["stopReason"] == "misconfigured"
        assert "403" in last["problem"] and "gate resume" in last["problem"]
        wait_over = Jsonb({**last_refusal(site), "waitUntil": "2026-01-01T00:00:00+00:00"})
        site.rows('update generation.limits set "storageRefused" = %s where id returning id', wait_over)
        site.make_due()
        await site.run(SUPABASE_URL=proxy.url)
        assert len(site.calls()) == 3
        later = last_refusal(site)
        assert str(later["waitUntil"]) > str(later["at"])
    await site.service.rpc("resume_generation").execute()
    site.make_due()
    assert (await site.run())["completed"] == 1
    assert (site.job(job)["status"], remembered(site), probes(site)) == ("completed", [None], left_before)


def test_the_wait_for_the_next_probe_grows_and_ends(site: Site) -> None:
    """A relapse is waited out for minutes, then for an hour at most; two hours without one are forgiven."""
    report = "select report_storage(%s, %s) -> 'storageRefused' as r"
    waits = []
    for _ in range(8):
        site.rows(report, False, Jsonb({"bytes": 1}))
        refused = site.rows(report, False, Jsonb({"bytes": 2}))[0]["r"]
        until = refused["waitUntil"] or refused["at"]
        waits.append((datetime.fromisoformat(until) - datetime.fromisoformat(refused["at"])).seconds)
        site.rows(report, True, Jsonb(refused))
    assert waits == [0, 120, 240, 480, 960, 1920, 3600, 3600]
    site.rows(
        """update generation.limits set "storageProvedAt" = now() - interval '3 h' where id returning id"""
    )
    assert site.rows(report, False, Jsonb({"bytes": 1}))[0]["r"]["waitUntil"] is None


async def test_a_run_that_ends_during_an_upload_is_no_relapse(site: Site) -> None:
    """If the run's own time ended the upload, the next run probes Storage at once."""
    site.rows('update generation.limits set "storageProvedAt" = now() where id returning id')
    await site.order("a")
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(faults.stall, UPLOAD, 1000)
        await site.run(RunRequest(budget_seconds=6.0), SUPABASE_URL=proxy.url)
    assert (len(site.calls()), last_refusal(site)["waitUntil"]) == (1, None)
    site.make_due()
    assert (await site.run())["completed"] == 1


def last_refusal(site: Site) -> dict[str, object]:
    """The refusal that is remembered."""
    (refused,) = remembered(site)
    assert isinstance(refused, dict)
    return refused


@contextmanager
def changed(site: Site, change: str) -> Iterator[None]:
    """The bucket with other settings until the end of the block."""
    kept = site.rows("select file_size_limit, allowed_mime_types from storage.buckets where id = %s", BUCKET)[
        0
    ]
    site.rows(f"update storage.buckets set {change} where id = '{BUCKET}' returning id")
    try:
        yield
    finally:
        site.rows(
            "update storage.buckets set file_size_limit = %s, allowed_mime_types = %s"
            " where id = %s returning id",
            kept["file_size_limit"],
            kept["allowed_mime_types"],
            BUCKET,
        )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("allowed_mime_types = array['image/jpeg', 'application/pdf']", "image/png, image/webp"),
        ("file_size_limit = 1000000", "1000000 bytes"),
    ],
)
async def test_a_bucket_that_would_refuse_is_known_before_anything_is_paid(
    site: Site, change: str, why: str
) -> None:
    """A bucket with other types or a lower limit stops the first run, unpaid, with what to fix."""
    (job,) = await site.order("a")
    with changed(site, change):
        first = await site.run()
    assert (first["stopReason"], len(site.calls())) == ("misconfigured", 0)
    assert why in first["problem"] and "sql/install.sql" in first["problem"]
    assert (site.job(job)["status"], site.job(job)["attempts"]) == ("pending", 0)
    second = await site.run()
    assert second["completed"] == 1
    site.audit(first, second)


async def test_a_bucket_without_limits_is_good(site: Site) -> None:
    """A bucket that accepts every type and size passes."""
    await site.order("a")
    with changed(site, "allowed_mime_types = null, file_size_limit = null"):
        assert (await site.run())["completed"] == 1


async def test_a_newer_refusal_outlives_the_proof_of_an_older(site: Site) -> None:
    """While one run proves Storage, another is refused: what it met stays remembered."""
    report = "select report_storage(%s, %s::jsonb) as answer"
    older = site.rows(report, False, '{"bytes": 900, "mimeType": "image/png"}')[0]["answer"]["storageRefused"]
    newer = site.rows(report, False, '{"bytes": 5, "mimeType": "image/webp"}')[0]["answer"]["storageRefused"]
    assert (newer["bytes"], newer["mimeType"]) == (900, "image/webp"), "a probe has to be as large as any"
    assert site.rows(report, True, Jsonb(older))[0]["answer"] == {"storageRefused": newer}
    assert site.rows(report, True, Jsonb(newer))[0]["answer"] == {"storageRefused": None}


async def test_a_project_that_refuses_the_key_is_believed_the_second_time_too(site: Site) -> None:
    """A claim that is refused ends the claims; a photo that is refused later ends the starts as well."""
    site.gemini.add_rule({"kind": "image", "hold": True}, times=2)
    await site.order("a", photo=await site.upload("slow.png", picture()))
    await site.order("b", images=3)
    refused = refusal("401 Unauthorized", {"message": "Invalid API key"})
    claims, claimed_twice, calls_sent = 0, asyncio.Event(), asyncio.Event()

    async def fault(exchange: Exchange) -> None:
        nonlocal claims
        line = exchange.request.split(b"\r\n")[0]
        claims += b"/rpc/claim_generation_jobs" in line
        if claims > 1:
            claimed_twice.set()
        if b"/slow.png" in line:
            await claimed_twice.wait()
            await calls_sent.wait()
        is_refused = b"/slow.png" in line or (claims > 1 and b"/rpc/claim_generation_jobs" in line)
        await (refused if is_refused else faults.nothing)(exchange)

    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(fault, ".", 100_000)
        worker = site.worker(SUPABASE_URL=proxy.url, IMAGES_AT_A_TIME="2", JOBS_AT_A_TIME="8")
        run = asyncio.create_task(worker.run(RunRequest()))
        await site.open_calls(2)
        calls_sent.set()
        await site.until_row("select from photo_generation_queue where status = 'pending'")
        site.gemini.release()
        summary = await run

    assert (summary["stopReason"], len(site.calls())) == ("misconfigured", 2)
