"""A user whose photos take long to download or decode delays other users' photos only briefly."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.runs import Site
from worker.photos.address import PhotoUrl
from worker.photos.download import PhotoDownload
from worker.photos.hosts import RunHosts
from worker.run.deadlines import Deadlines
from worker.run.request import RunRequest


class Silent(PhotoDownload):
    """Hosts that never answer, and that no timeout ends."""

    async def get(self, url: PhotoUrl, user_folder: str, hosts: RunHosts, max_bytes: int) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError("it is cancelled")


async def test_memory_for_photos_that_do_not_come_is_given_to_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two accounts could hold all memory for photos, run after run, at no cost to them."""
    monkeypatch.setattr(Deadlines, "fair_seconds", 0.5)
    for account in ("one", "two"):
        hosts = [f"https://{number}.{account}.example/me.jpg" for number in range(14)]
        for _ in range(3):
            await site.order("hostile", photo=hosts[0], trainingImageUrls=hosts[1:], userId=account)
    for _ in range(2):
        await site.order("mine")

    worker = site.worker(Silent())
    run = asyncio.create_task(worker.run(RunRequest(budget_seconds=60)))
    done = """select "userId" from photo_generation_queue where "userId" = %s and status = 'completed'
        group by "userId" having count(*) = 2"""
    await site.until_row(done, site.user)
    run.cancel()
    await asyncio.wait([run])
