"""A run asks Supabase no more than it must: every request is a part of its time, and of the API's."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from bench.roundtrips import Trips
from tests.support.runs import MODEL, Site
from worker.run.request import RunRequest

BUCKET = "storage: GET generated-photos"
STORE, RECORD = "storage: POST generated-photos", "record_generated_photo"
CLAIM, SLOTS, SETTLE, FINISH = (
    "claim_generation_jobs",
    "take_start_slots",
    "settle_generation_jobs",
    "finish_generation_run",
)


async def counted(site: Site) -> Counter[str]:
    """The requests of one run of a new worker."""
    trips, worker = Trips(), site.worker()
    worker.project.http.event_hooks["request"].append(trips.note)
    await worker.run(RunRequest())
    return trips.counted


async def test_an_idle_run_is_one_request(site: Site) -> None:
    """A minute in which nothing was ordered costs one RPC."""
    assert await counted(site) == {CLAIM: 1}


async def test_a_run_asks_two_things_for_each_image(site: Site) -> None:
    """Each image is stored once and recorded once; all else is once for a run, a job, or a start at most."""
    await site.order("a", "b", "c", images=2)
    trips = await counted(site)
    assert trips.pop(STORE) == trips.pop(RECORD) == 6
    assert trips.pop("storage: GET training-photos") == 1, "the photo that all jobs share is fetched once"
    assert trips.pop(CLAIM) == 2, "one that gives the jobs, one that finds no more"
    assert 1 <= trips.pop(SETTLE) <= 3
    assert 1 <= trips.pop(SLOTS) <= 6
    assert trips.pop(FINISH) == 1
    assert trips.pop(BUCKET) == 1, "a process looks at the bucket before its first photo"
    assert not trips


async def test_a_process_looks_at_the_bucket_once(site: Site) -> None:
    """The second run of a process does not ask again what the bucket takes."""
    trips, worker = Trips(), site.worker()
    worker.project.http.event_hooks["request"].append(trips.note)
    for name in "ab":
        await site.order(name)
        await worker.run(RunRequest())
    assert trips.counted[BUCKET] == 1


async def test_a_run_takes_starts_for_all_who_wait(site: Site) -> None:
    """Images that wait for a start together get theirs with one question for a horizon."""
    site.rows("select set_generation_rate(model, 60, 1, 6, 0.1) from generation.gates")
    await site.order("a", images=8)
    trips = await counted(site)
    assert trips[STORE] == 8
    assert trips[SLOTS] <= 4


async def test_numbers_asked_for_at_once_are_one_query(site: Site) -> None:
    """Many simultaneous callers cause one query; a later caller causes a new one."""
    trips, worker = Trips(), site.worker()
    worker.project.http.event_hooks["request"].append(trips.note)
    answers = await asyncio.gather(*(worker.stats() for _ in range(20)))
    assert trips.counted["generation_queue_stats"] == 1
    assert all(answer == answers[0] for answer in answers)
    await worker.stats()
    assert trips.counted["generation_queue_stats"] == 2


async def test_a_run_with_a_user_at_the_limit_does_not_claim_at_each_jobs_end(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run claims when that user may have more jobs, or after a pause."""
    monkeypatch.setattr("worker.run.run.claim_pause_seconds", lambda horizon: 60)
    site.rows("select set_generation_rate(%s, 60, 1, 6, 0.1)", MODEL)
    await site.order(*"abcdefgh")
    trips, worker = Trips(), site.worker(IMAGES_AT_A_TIME="4")
    worker.project.http.event_hooks["request"].append(trips.note)
    summary = await worker.run(RunRequest())
    assert summary["completed"] == 8
    assert trips.counted[CLAIM] <= 4, trips.counted
