"""Processes killed or stopped during a run: nothing is lost, and nothing is recorded twice."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.folder import Folder
from local.stack.stack import Stack
from tests.support.runs import BUSY_SECONDS, Site, process_environment

SECRET = "a-secret-of-the-tests-0123456789"
HELD = {"kind": "image", "hold": True}


@pytest.fixture
def queue(
    stack: Stack, simulator: Simulator, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Function]:
    """`process_generation_queue` in its own process, for one test; its parameter adds settings."""
    environment = process_environment(stack, simulator) | {"WORKER_SECRET": SECRET}
    environment |= getattr(request, "param", {})
    with Function("process_generation_queue", Folder(tmp_path), environment) as function:
        yield function


async def call(function: Function) -> httpx.Response:
    """One invocation."""
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.post(function.url, headers={"X-Worker-Secret": SECRET})


async def kill_while_generating(site: Site, queue: Function, calls: int) -> None:
    """An invocation that is killed with -9 once this many requests are pending; then its leases expire."""
    invocation = asyncio.create_task(call(queue))
    await site.open_calls(calls)
    queue.kill_workers()
    with pytest.raises(httpx.TransportError):
        await invocation
    await site.open_calls(0)
    site.gemini.release()
    site.expire_leases()


async def test_the_next_invocation_completes_a_killed_ones_batch(site: Site, queue: Function) -> None:
    """The next invocation makes only the images that were not recorded."""
    site.gemini.add_rule(HELD, prompt="[held]", times=2)
    held, done = await site.order("held", "done", images=2)
    invocation = asyncio.create_task(call(queue))
    await site.until_row("select from photo_generation_queue where id = %s and status = 'completed'", done)
    await site.open_calls(2)
    queue.kill_workers()
    with pytest.raises(httpx.TransportError):
        await invocation
    before = site.photos(done)
    assert site.job(held)["status"] == "processing"

    site.expire_leases()
    queue.start()
    summary = (await call(queue)).json()

    row = site.job(held)
    assert (row["status"], row["attempts"], row["crashes"]) == ("completed", 1, 1)
    assert (summary["completed"], summary["images"]["made"], site.batch(held)) == (1, 2, "completed")
    assert site.photos(done) == before
    assert len(site.calls("done")) == 2
    site.audit()


async def test_an_image_stored_by_a_killed_worker_is_adopted(site: Site, queue: Function) -> None:
    """The image is not paid for again."""
    await site.order("a")
    with site.db.transaction():
        site.db.execute("lock table photo_generation_photos in share mode")
        invocation = asyncio.create_task(call(queue))
        record = await site.until_row("select pid from pg_locks where not granted")
        queue.kill_workers()
        with pytest.raises(httpx.TransportError):
            await invocation
        # The record that is on its way dies as well, as it would with the connection to the database.
        site.rows("select pg_cancel_backend(%s)", record["pid"])
        await site.until_row("select 1 as one where not exists (select from pg_locks where not granted)")
    assert (len(site.objects()), site.photos()) == (1, [])

    site.expire_leases()
    queue.start()
    summary = (await call(queue)).json()

    assert (summary["images"]["adopted"], summary["images"]["made"], len(site.calls())) == (1, 0, 1)
    site.audit(summary)


@pytest.mark.slow
async def test_a_job_that_kills_its_worker_three_times_alone_fails(site: Site, queue: Function) -> None:
    """The jobs that were beside it complete."""
    poison, neighbour = await site.order("poison", "neighbour")
    site.gemini.add_rule(HELD, times=None)
    await kill_while_generating(site, queue, 2)
    for _ in range(3):
        queue.start()
        await kill_while_generating(site, queue, 1)
    assert [(site.job(job)["crashes"], site.job(job)["attempts"]) for job in (poison, neighbour)] == [
        (2, 1),
        (0, 0),
    ]

    site.gemini.configure(rules=[])
    queue.start()
    summary = (await call(queue)).json()

    row = site.job(poison)
    assert (row["status"], row["errorCode"], row["crashes"]) == ("failed", "crashed", 3)
    assert "three times" in row["errorMessage"]
    assert (site.job(neighbour)["status"], summary["completed"]) == ("completed", 1)
    assert (site.batch(poison), len(site.calls("poison")), len(site.calls("neighbour"))) == ("partial", 4, 2)
    site.audit()


async def refuses_connections(queue: Function) -> None:
    """Wait until the server has taken notice of a signal: from then on it listens no more."""
    port = int(queue.url.rsplit(":", 1)[1])
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("queue", [{"IMAGES_AT_A_TIME": "1"}], indirect=True)
async def test_sigterm_keeps_pending_requests_and_releases_the_other_jobs(
    site: Site, queue: Function
) -> None:
    """The caller gets its answer."""
    site.gemini.add_rule(HELD)
    first, second = await site.order("first", "second", images=2)
    invocation = asyncio.create_task(call(queue))
    await site.open_calls(1)

    began = time.monotonic()
    os.kill(queue.pid, signal.SIGTERM)
    await refuses_connections(queue)
    site.gemini.release()
    answer = await invocation

    assert time.monotonic() - began < BUSY_SECONDS
    summary = answer.json()
    assert (answer.status_code, summary["stopReason"]) == (200, "shutdown")
    assert (summary["images"]["made"], summary["images"]["notStarted"]) == (1, 1)
    jobs = [site.job(first), site.job(second)]
    assert [(row["status"], row["attempts"]) for row in jobs] == [("pending", 1), ("pending", 0)]
    site.audit(summary)
