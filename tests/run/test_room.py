"""A worker's memory for photos: what does not fit waits for its turn or a later run, and costs nothing."""

import asyncio

import pytest

from tests.support.runs import Site, Summary, picture
from worker.run.request import RunRequest

SLOW = {"kind": "image", "latency_seconds": 0.2}
HELD = {"kind": "image", "hold": True}


async def order_with_own_photo(site: Site, name: str) -> int:
    """A job with a photo that no other job uses."""
    (job,) = await site.order(name, photo=await site.upload(f"{name}.png", picture()))
    return job


async def four_at_once(site: Site) -> Summary:
    """The summary of a run that requested four images before it got one."""
    site.gemini.add_rule(HELD, times=4)
    running = asyncio.create_task(site.run())
    await site.open_calls(4)
    site.gemini.release()
    return await running


async def test_jobs_take_turns_if_memory_fits_the_photos_of_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are made in the end."""
    monkeypatch.setattr("worker.app.PHOTO_BYTES", 1)
    site.gemini.add_rule(SLOW, times=None)
    for name in "abcd":
        await order_with_own_photo(site, name)

    summary = await site.run()

    assert (summary["completed"], site.gemini.ledger.most_open()) == (4, 1)
    site.audit(summary)


async def test_jobs_with_photos_of_their_own_are_made_at_once_if_memory_fits_all(site: Site) -> None:
    for name in "abcd":
        await order_with_own_photo(site, name)

    summary = await four_at_once(site)

    assert summary["completed"] == 4
    site.audit(summary)


async def test_no_room_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job for whose photos there was no memory before the run's end goes back unspent."""
    monkeypatch.setattr("worker.app.PHOTO_BYTES", 1)
    site.gemini.add_rule({"kind": "hang"}, prompt="[a]", times=1)
    a, b = [await order_with_own_photo(site, name) for name in "ab"]

    summary = await site.run(RunRequest(max_jobs=2, budget_seconds=4))

    assert (summary["retried"], summary["images"]["cut"], summary["images"]["notStarted"]) == (2, 1, 1)
    assert [site.job(job)["errorCode"] for job in (a, b)] == ["cut", "budget"]
    assert [site.job(job)["attempts"] for job in (a, b)] == [1, 0]
    site.make_due()
    site.audit(summary, await site.run())


async def test_jobs_with_the_same_photos_need_the_memory_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.app.PHOTO_BYTES", 1)
    await site.order(*"abcd")

    summary = await four_at_once(site)

    assert summary["completed"] == 4
    site.audit(summary)
