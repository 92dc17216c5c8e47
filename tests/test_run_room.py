"""A worker's room for photos: what does not fit waits, for its turn or for a later run, and costs nothing."""

import pytest

from tests.runs import Site
from worker.request import RunRequest

pytest_plugins = ("tests.runs",)

SLOW = {"kind": "image", "latency_seconds": 0.4}


@pytest.mark.parametrize(("room", "most"), [("PHOTO_BYTES", 1), ("CALL_BYTES", 1), ("", 4)])
async def test_turns(site: Site, monkeypatch: pytest.MonkeyPatch, room: str, most: int) -> None:
    """With room for one job's photos, or for one call's, they go one after the other; all are made."""
    if room:
        monkeypatch.setattr(f"worker.app.{room}", 1)
    site.gemini.add_rule(SLOW, times=None)
    await site.order(*"abcd")

    summary = await site.run()

    assert (summary["completed"], site.gemini.ledger.most_open()) == (4, most)
    site.audit(summary)


async def test_no_room_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job for whose photos there was no room before the run's end goes back unspent."""
    monkeypatch.setattr("worker.app.PHOTO_BYTES", 1)
    site.gemini.add_rule({"kind": "hang"}, prompt="[a]", times=1)
    a, b = await site.order("a", "b")

    summary = await site.run(RunRequest(max_jobs=2, budget_seconds=4))

    assert (summary["retried"], summary["images"]["cut"], summary["images"]["notStarted"]) == (2, 1, 1)
    assert [site.job(job)["errorCode"] for job in (a, b)] == ["cut", "budget"]
    assert [site.job(job)["attempts"] for job in (a, b)] == [1, 0]
    site.make_due()
    site.audit(summary, await site.run())
