"""Users share a run: one user's missing photos do not delay other users' jobs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime

import httpcore
import pytest
from PIL import Image

from tests.support.photo_files import saved
from tests.support.photo_host import ADDRESS, Loopback, PhotoHost
from tests.support.proxy import Proxy
from tests.support.runs import MODEL, Site, picture
from worker.app import Worker
from worker.photos.decode import Limits, Source
from worker.photos.download import PhotoDownload
from worker.run.request import RunRequest
from worker.run.run import claim_pause_seconds


async def _address(_host: str) -> Sequence[str]:
    return [ADDRESS]


class SilentHosts(Loopback):
    """Hosts that never answer; each connection times out once the test says so."""

    def __init__(self) -> None:
        super().__init__(PhotoHost())
        self.time_is_up = asyncio.Event()
        self.web = PhotoDownload(resolver=_address, network=self)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Wait for the time to be up."""
        await self.time_is_up.wait()
        raise httpcore.ConnectTimeout


@pytest.fixture
async def silent(site: Site, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SilentHosts]:
    """A web whose hosts never answer; a job waits for them as long as for others in production."""
    site.db.execute("insert into generation.photo_hosts (host) values ('*') on conflict do nothing")
    monkeypatch.setattr("worker.run.in_flight.PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("worker.run.run.CLAIM_PAUSE_SECONDS", 0.2)
    hosts = SilentHosts()
    yield hosts
    await hosts.web.close()


async def attack(site: Site, jobs: int, user: str = "attacker") -> list[int]:
    """Orders of one image each, with photos on silent hosts."""
    ordered = []
    for number in range(jobs):
        photos = [f"https://h{number}-{photo}.{user}.example/me.jpg" for photo in range(2)]
        ordered += await site.order("attack", photo=photos[0], trainingImageUrls=photos[1:], userId=user)
    return ordered


def ended(site: Site, job: int) -> datetime:
    """When a job was made, or last came back to wait."""
    row = site.job(job)
    moment = row["completedAt"] or row["waitingSince"]
    assert isinstance(moment, datetime), row
    return moment


async def completed(site: Site, *jobs: int) -> None:
    """Wait until these jobs are made."""
    for job in jobs:
        await site.until_row("select from photo_generation_queue where id = %s and status = 'completed'", job)


async def test_jobs_that_wait_for_photos_take_no_place(site: Site, silent: SilentHosts) -> None:
    """With one place, and silent hosts before every job of the victim, all of them are made meanwhile."""
    attacking = await attack(site, 4)
    mine = await site.order(*"abc")

    running = asyncio.create_task(site.worker(silent.web, JOBS_AT_A_TIME="1").run(RunRequest()))
    await completed(site, *mine)
    silent.time_is_up.set()

    assert (await running)["completed"] == 3
    assert max(ended(site, job) for job in mine) < min(ended(site, job) for job in attacking)


async def test_jobs_of_many_users_that_wait_for_photos_keep_nobody_from_being_claimed(
    site: Site, silent: SilentHosts
) -> None:
    """With one place, and a job of each of four users that waits for silent hosts."""
    attacking = [job for user in "abcd" for job in await attack(site, 1, f"attacker-{user}")]
    running = asyncio.create_task(site.worker(silent.web, JOBS_AT_A_TIME="1").run(RunRequest()))
    held = "select from photo_generation_queue where id = %s and status = 'processing'"
    for job in attacking:
        await site.until_row(held, job)

    (mine,) = await site.order("late")
    await completed(site, mine)

    rows = [site.job(job) for job in attacking]
    assert {(row["status"], row["attempts"]) for row in rows} == {("processing", 1)}
    silent.time_is_up.set()
    assert (await running)["completed"] == 1


async def test_a_user_has_few_jobs_that_wait_for_photos_in_a_run(site: Site, silent: SilentHosts) -> None:
    """Half as many as there are places, and what the same claim brought; the others stay in the queue."""
    attacking = await attack(site, 12)
    worker = site.worker(silent.web, JOBS_AT_A_TIME="4")
    running = asyncio.create_task(worker.run(RunRequest()))
    await site.until_row("select from photo_generation_queue where status = 'processing'")
    for name in "abc":  # each comes with a claim that could have brought more of the attacker's
        await completed(site, *(await site.order(name)))

    assert [site.job(job)["status"] for job in attacking].count("processing") == 4
    worker.stop()
    await running


async def test_new_orders_are_made_while_others_wait_for_photos(site: Site, silent: SilentHosts) -> None:
    """A run whose only jobs wait for photos claims new ones, instead of ending or waiting."""
    (attacking,) = await attack(site, 1)
    async with Proxy(site.stack.url) as proxy:
        running = asyncio.create_task(site.worker(silent.web, SUPABASE_URL=proxy.url).run(RunRequest()))
        async with asyncio.timeout(60):
            while proxy.paths.count("/rest/v1/rpc/claim_generation_jobs") < 2:
                await asyncio.sleep(0.02)
        (mine,) = await site.order("late")
        await completed(site, mine)
        silent.time_is_up.set()
        summary = await running

    assert summary["completed"] == 1
    assert ended(site, mine) < ended(site, attacking)


async def test_images_that_wait_for_their_users_memory_keep_nobody_from_being_claimed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One user's photos are so large that two jobs fit; another user's order is made meanwhile."""
    monkeypatch.setattr("worker.run.in_flight.PATIENCE_SECONDS", 0.1)
    noise = {
        name: saved(Image.effect_noise((300, 300), 60 + number), "PNG") for number, name in enumerate("abcd")
    }
    largest = max(
        len(Source("PNG", photo, Limits(2048, 10**7), 10**9).prepare().data) for photo in noise.values()
    )
    monkeypatch.setattr("worker.photos.memory.MAX_PREPARED_BYTES", largest)
    monkeypatch.setattr("worker.app.PHOTO_BYTES", 4 * largest)
    attacking = []
    for name in noise:
        photo = await site.upload(f"{name}.png", noise[name], user="attacker")
        attacking += await site.order(name, photo=photo, userId="attacker")
    site.gemini.add_rule({"kind": "image", "hold": True}, times=2)
    running = asyncio.create_task(site.worker(JOBS_AT_A_TIME="4").run(RunRequest()))
    await site.open_calls(2)

    (mine,) = await site.order("late")
    await completed(site, mine)

    assert not any(site.photos(job) for job in attacking)
    site.gemini.release()
    assert (await running)["completed"] == 5


async def test_photos_that_are_never_ready_give_way_to_other_users_jobs(site: Site) -> None:
    """In the run after the one whose end cut them; otherwise they would take their memory first, for ever."""
    slow = await site.upload("slow.png", picture(), user="attacker")
    (attacking,) = await site.order("attack", photo=slow, userId="attacker")
    async with Proxy(site.stack.url) as proxy:
        proxy.gate("slow.png")
        await site.run(RunRequest(budget_seconds=4), SUPABASE_URL=proxy.url)
    (mine,) = await site.order("mine")
    site.make_due()

    await site.run(RunRequest(max_jobs=1))

    assert (site.job(mine)["status"], site.job(attacking)["status"]) == ("completed", "pending")


async def test_a_claim_takes_few_images(site: Site) -> None:
    """Twice as many as are made concurrently, since claimed jobs come before other users' jobs."""
    site.gemini.add_rule({"kind": "image", "hold": True}, times=4)
    jobs = await site.order(*"abcdef", images=4)
    running = asyncio.create_task(site.worker(IMAGES_AT_A_TIME="4").run(RunRequest()))
    await site.open_calls(4)

    assert [site.job(job)["status"] for job in jobs].count("processing") == 2
    site.gemini.release()
    summary = await running
    assert summary["completed"] == 6
    site.audit(summary)


async def test_a_run_ends_once_nothing_is_left_but_waiting_in_vain(site: Site, silent: SilentHosts) -> None:
    attacking: Sequence[int] = await attack(site, 2)
    worker: Worker = site.worker(silent.web, RETRY_BASE_SECONDS="60")
    silent.time_is_up.set()

    summary = await worker.run(RunRequest())

    assert (summary["stopReason"], summary["retried"]) == ("queue_empty", 2)
    rows = [site.job(job) for job in attacking]
    assert {(row["errorCode"], row["attempts"]) for row in rows} == {("photo_host_unavailable", 1)}
    site.audit(summary)


async def test_many_images_of_one_user_keep_no_other_user_from_being_claimed(site: Site) -> None:
    """An order that comes while one user's images fill the run is claimed by that run."""
    site.gemini.add_rule({"kind": "image", "hold": True}, prompt="[many", times=None)
    photo = await site.upload("many.png", picture(), user="many")
    await site.order("many 1", "many 2", images=10, photo=photo, userId="many")
    running = asyncio.create_task(site.worker(IMAGES_AT_A_TIME="4").run(RunRequest()))
    await site.open_calls(4)

    (mine,) = await site.order("late")
    await site.until_row("select from photo_generation_queue where id = %s and status = 'processing'", mine)

    site.gemini.release()
    await completed(site, mine)
    site.gemini.configure(rules=[])
    site.gemini.release()
    assert (await running)["completed"] == 3


async def test_a_small_order_is_made_in_turns_with_a_large_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a slow gate, users take turns at its starts, whoever's images came first."""
    monkeypatch.setattr("worker.run.run.CLAIM_PAUSE_SECONDS", 0.05)
    site.rows("select set_generation_rate(%s, 15, 1, 6, 0.1)", MODEL)
    photo = await site.upload("large.png", picture(), user="large")
    await site.order("large 1", "large 2", images=8, photo=photo, userId="large")
    running = asyncio.create_task(site.worker().run(RunRequest()))
    await site.until(lambda ledger: ledger.calls)

    (small,) = await site.order("small", images=2)
    await site.until_row("select from photo_generation_queue where id = %s and status = 'processing'", small)
    before = len(site.calls())
    assert (await running)["completed"] == 3

    calls = [call.prompt_start for call in site.calls()]
    last = max(place for place, prompt in enumerate(calls) if "[small]" in prompt)
    # In turns both are among the next four; a busy machine may have their photo later than their place.
    assert last - before <= 6, calls


@pytest.mark.parametrize(("horizon", "pause"), [(1, 0.2), (10, 2), (600, 2), (math.inf, 2)])
def test_a_new_users_job_is_claimed_before_all_slots_are_given(horizon: float, pause: float) -> None:
    """A run that gets nothing claims again after a fifth of the horizon, 2 s if that is unknown or longer."""
    assert claim_pause_seconds(horizon) == pause
