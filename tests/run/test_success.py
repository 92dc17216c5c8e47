"""Runs in which everything works: what is made, stored, recorded and counted, and at which pace."""

import asyncio
import hashlib
import io
from itertools import pairwise

import pytest
from PIL import Image

from tests.support.proxy import Proxy
from tests.support.runs import MODEL, Site, Summary
from worker.run.request import RunRequest

WORKED = ("completed", "failed", "retried", "rateLimited", "leaseLost")


def counts(summary: Summary) -> tuple[int, ...]:
    """How a run's jobs ended, in the order of WORKED."""
    return tuple(summary[name] for name in WORKED)


@pytest.mark.parametrize(("ratio", "size"), [("1:1", (256, 256)), ("9:16", (192, 336)), ("21:9", (384, 168))])
async def test_a_stored_image_and_its_row_are_what_gemini_sent(
    site: Site, ratio: str, size: tuple[int, int]
) -> None:
    """Byte for byte, under its hash and type."""
    (job,) = await site.order("a", images=2, aspectRatio=ratio)

    summary = await site.run()

    assert summary["stopReason"] == "queue_empty"
    assert counts(summary) == (1, 0, 0, 0, 0)
    assert summary["images"] == {
        "made": 2, "adopted": 0, "refused": 0, "erred": 0, "notStarted": 0, "discarded": 0, "cut": 0
    }  # fmt: skip
    assert {call.aspect_ratio for call in site.calls()} == {ratio}
    for row in site.photos(job):
        data = await site.fetch(row["storagePath"])
        assert site.objects()[row["storagePath"]] == "image/png"
        sha = hashlib.sha256(data).hexdigest()[:16]
        assert row["storagePath"] == f"{site.user}/{row['batchId']}/{job}/{row['imageIndex']}-{sha}"
        assert (row["width"], row["height"]) == size == Image.open(io.BytesIO(data)).size
        assert (row["mimeType"], row["bytes"], row["model"]) == ("image/png", len(data), MODEL)
        assert row["outputTokens"] == 1290
        assert row["generationMs"] >= 0
    assert site.batch(job) == "completed"
    site.audit(summary)


async def test_an_images_type_is_read_from_its_bytes(site: Site) -> None:
    """Gemini may send any type."""
    site.gemini.configure(mime_type="image/jpeg")
    (job,) = await site.order("a")

    summary = await site.run()

    (row,) = site.photos(job)
    data = await site.fetch(row["storagePath"])
    assert row["mimeType"] == site.objects()[row["storagePath"]] == "image/jpeg"
    assert Image.open(io.BytesIO(data)).format == "JPEG"
    site.audit(summary)


async def test_a_run_claims_until_the_queue_is_empty(site: Site) -> None:
    """All counts agree with the rows and the simulator's ledger."""
    jobs = [job for n in range(3) for job in await site.order(*(f"{n}.{i}" for i in range(5)), images=2)]

    summary = await site.run(JOBS_AT_A_TIME="4")

    assert (summary["claimed"], *counts(summary)) == (15, 15, 0, 0, 0, 0)
    assert {site.job(job)["attempts"] for job in jobs} == {1}
    assert site.gemini.paid() == 30
    site.audit(summary)


async def test_max_jobs_limits_what_a_run_claims(site: Site) -> None:
    """Another run takes the rest."""
    await site.order(*"abcde")

    first, second = await site.run(RunRequest(max_jobs=3)), await site.run()

    assert (first["claimed"], first["stopReason"]) == (3, "max_jobs")
    assert (second["claimed"], second["stopReason"]) == (2, "queue_empty")
    site.audit(first, second)


async def test_an_idle_run_makes_one_call_to_supabase_and_none_to_gemini(site: Site) -> None:
    """Only the first idle run leaves a row."""
    async with Proxy(site.stack.url) as proxy:
        summary = await site.run(SUPABASE_URL=proxy.url)

        assert proxy.paths == ["/rest/v1/rpc/claim_generation_jobs"]
    assert (summary["stopReason"], summary["claimed"], summary["nextAttemptInSeconds"]) == (
        "queue_empty",
        0,
        None,
    )
    assert site.calls() == []
    await site.run()
    assert len(site.rows("select from generation.runs")) == 1


async def test_shared_photo_fetched_once(site: Site) -> None:
    """A source photo that several jobs share is fetched once in a run, and goes along with every request."""
    await site.order("a", "b", "c", images=2)
    async with Proxy(site.stack.url) as proxy:
        summary = await site.run(SUPABASE_URL=proxy.url)

        assert sum(path.endswith(f"{site.user}/me.png") for path in proxy.paths) == 1
    assert [call.photos for call in site.calls()] == [2] * 6
    site.audit(summary)


async def test_images_at_a_time(site: Site) -> None:
    """At most IMAGES_AT_A_TIME requests are pending, and that many really are."""
    site.gemini.add_rule({"kind": "image", "hold": True}, times=3)
    await site.order("a", "b", "c", images=3)

    run = asyncio.create_task(site.run(IMAGES_AT_A_TIME="3"))
    await site.open_calls(3)
    site.gemini.release()
    summary = await run

    assert site.gemini.ledger.most_open() == 3
    site.audit(summary)


async def test_paced_by_the_gate(site: Site) -> None:
    """Calls start as far apart as the gate says, across all jobs of a run."""
    site.rows("select set_generation_rate(%s, 30, 1, 59, 1)", MODEL)
    worker = site.worker()
    worker.gemini.prepare()  # loading the SDK would delay the first start
    await site.order("a", images=2)
    await site.order("b")
    summary = await worker.run(RunRequest())

    starts = [call.started for call in site.calls()]
    late = 1.7  # how much later than another a request may arrive after its start, on a busy machine
    assert all(later - earlier >= 2 - late for earlier, later in pairwise(starts))
    assert starts[-1] - starts[0] >= 4 - late
    site.audit(summary)


async def test_a_retry_requests_only_the_missing_images(site: Site) -> None:
    """Two of four failed in the first run."""
    no_image = {"kind": "finish", "reason": "NO_IMAGE"}
    site.gemini.add_rule({**no_image, "hold": True}, times=2)
    site.gemini.add_rule({"kind": "image", "hold": True}, times=2)
    site.gemini.add_rule(no_image, times=2)
    (job,) = await site.order("a", images=4)

    running = asyncio.create_task(site.run(RunRequest(max_jobs=1)))
    await site.open_calls(4)
    site.gemini.release()
    first = await running

    assert (first["retried"], first["images"]["made"], first["images"]["erred"]) == (1, 2, 2)
    assert len(site.photos(job)) == 2
    assert site.batch(job) == "generating"
    before = len(site.calls())
    site.make_due()
    second = await site.run()
    assert (second["completed"], second["images"]["made"]) == (1, 2)
    assert len(site.calls()) - before == 2
    assert [row["imageIndex"] for row in site.photos(job)] == [0, 1, 2, 3]
    assert site.job(job)["attempts"] == 2
    site.audit(first, second)


async def test_two_workers_at_once(site: Site) -> None:
    """Two workers on one queue share its jobs, and each image is made exactly once."""
    site.gemini.configure(latency=0.02)
    jobs = await site.order(*(str(n) for n in range(16)), images=2)

    summaries = await asyncio.gather(*(site.run(JOBS_AT_A_TIME="3") for _ in range(2)))

    assert all(summary["claimed"] for summary in summaries)
    assert {site.job(job)["attempts"] for job in jobs} == {1}
    assert site.gemini.paid() == 32
    site.audit(*summaries)
