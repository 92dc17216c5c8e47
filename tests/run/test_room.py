"""A worker's memory for photos: what does not fit waits for its turn or a later run, and costs nothing."""

import pytest

from tests.support.runs import Site, picture
from worker.run.request import RunRequest

pytest_plugins = ("tests.support.runs",)

SLOW = {"kind": "image", "latency_seconds": 0.4}


async def order_with_own_photo(site: Site, name: str) -> int:
    """A job with a photo that no other job uses."""
    (job,) = await site.order(name, photo=await site.upload(f"{name}.png", picture()))
    return job


@pytest.mark.parametrize(("room", "most"), [("PHOTO_BYTES", 1), ("", 4)])
async def test_jobs_take_turns_if_memory_fits_the_photos_of_one(
    site: Site, monkeypatch: pytest.MonkeyPatch, room: str, most: int
) -> None:
    """All are made in the end."""
    if room:
        monkeypatch.setattr(f"worker.app.{room}", 1)
    site.gemini.add_rule(SLOW, times=None)
    for name in "abcd":
        await order_with_own_photo(site, name)

    summary = await site.run()

    assert (summary["completed"], site.gemini.ledger.most_open()) == (4, most)
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
    site.gemini.add_rule(SLOW, times=None)
    await site.order(*"abcd")

    summary = await site.run()

    assert (summary["completed"], site.gemini.ledger.most_open()) == (4, 4)
    site.audit(summary)
