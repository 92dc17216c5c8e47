"""Calls outside of runs, disturbed: an order under a key, and what operators ask for, each safe to repeat."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.ops.test_faults_sweep import SWEEPING
from tests.run.test_faults import FAULTS, QUICK
from tests.support import faults
from tests.support.access_table import FUNCTIONS
from tests.support.fault_calls import CALLS, rpc
from tests.support.faults import Fault, FaultProxy
from tests.support.runs import MODEL, Site, fresh_order
from worker.errors import QueueUnavailable
from worker.supabase.queue import Queue

WORKER = Path(__file__).resolve().parents[2] / "worker"

OPERATIONS: dict[str, Mapping[str, Any]] = {
    "add_generation_photo_host": {"p_host": "photos.example.com"},
    "cancel_generation_batch": {"p_batch_id": "the batch"},
    "erase_generation_user": {"p_user_id": "the user"},
    "pause_generation": {"p_reason": "a test"},
    "prune_generation_history": {"p_older_than_days": 30, "p_limit": 10},
    "release_stale_generation_jobs": {"p_older_than_seconds": 0},
    "remove_generation_gate": {"p_model": MODEL},
    "remove_generation_photo_host": {"p_host": "*"},
    "resume_generation": {},
    "retry_failed_generation_jobs": {"p_batch_id": None, "p_including_refused": True, "p_limit": 10},
    "set_generation_limits": {"p_limits": {"imagesPerDay": 7}},
    "set_generation_model": {"p_model": MODEL, "p_facts": {"dollars": 0.5}},
    "set_generation_rate": {"p_model": MODEL, "p_rate": 7},
}
QUESTIONS: dict[str, Mapping[str, Any]] = {
    "generation_access_findings": {},
    "generation_details": {"p_id": "the batch"},
    "generation_gate": {},
    "generation_models": {},
    "generation_overview": {"p_limit": 3},
    "generation_photo_hosts": {},
    "generation_queue_stats": {},
    "generation_schema_version": {},
    "peek_generation_jobs": {"p_max_jobs": 3},
}

STATE = """
    select jsonb_build_object(
      'jobs', (select jsonb_agg(to_jsonb(q) order by q.id) from photo_generation_queue as q),
      'batches', (select jsonb_agg(to_jsonb(b)) from photo_generation_batches as b),
      'refused', (select jsonb_agg(to_jsonb(f)) from generation.failed_images as f),
      'prices', (select jsonb_agg(to_jsonb(p) order by p.model) from generation.prices as p),
      'hosts', (select jsonb_agg(h.host order by h.host) from generation.photo_hosts as h),
      'limits', (select to_jsonb(l) from generation.limits as l),
      'gate', (select to_jsonb(g) - array['epoch', 'startTimes', 'startCounts', 'roomAt', 'paceAt']
        from generation.gates as g where g.model = %s)
    ) as state"""
"""All that operations change, but for what only voids starts that were given out."""


def state(site: Site) -> object:
    """The contents of the tables."""
    (row,) = site.rows(STATE, MODEL)
    return row["state"]


async def one_of_each(site: Site) -> str:
    """A complete batch of long ago; and one with a failed job, a dead worker's and a ready one: its id."""
    site.gemini.add_rule({"kind": "finish", "reason": "IMAGE_SAFETY"}, prompt="[a]")
    (old,) = await site.order("old")
    jobs = await site.order("a", "b", "c")
    await site.run(JOBS_AT_A_TIME="1", IMAGES_AT_A_TIME="1", MAX_JOBS="2")
    for table in ("photo_generation_queue", "photo_generation_batches"):
        site.rows(
            f"update {table} set \"completedAt\" = now() - '99 days'::interval"
            " where status = 'completed' returning 1"
        )
    site.rows(
        "update photo_generation_queue set status = 'processing', \"lockedBy\" = 'dead',"
        ' "lockedAt" = now() - interval \'1 hour\', "leaseExpiresAt" = now() where id = %s returning id',
        jobs[1],
    )
    found = [site.job(job)["status"] for job in (old, *jobs)]
    assert found == ["completed", "failed", "processing", "pending"]
    return str(site.job(jobs[0])["batchId"])


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize(
    ("function", "fault"),
    [
        pytest.param(
            function, fault, marks=() if function in OPERATIONS and fault in QUICK else pytest.mark.slow
        )
        for function in OPERATIONS | QUESTIONS
        for fault in ("answer_lost", "duplicate")
    ],
)
async def test_an_operation_that_arrives_twice_takes_effect_once(
    site: Site, function: str, fault: str
) -> None:
    """The caller gets an answer in either case."""
    names = {"the batch": await one_of_each(site), "the user": site.user}
    params = {k: names.get(str(v), v) for k, v in (OPERATIONS | QUESTIONS)[function].items()}
    if function == "resume_generation":
        await site.service.rpc("pause_generation").execute()
    if function == "remove_generation_gate":  # which nobody has used for long
        site.rows(
            """update generation.gates set "startTimes" = array[now() - interval '2 days'],
            "startCounts" = array[1] returning 1"""
        )
    before = state(site)
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(FAULTS[fault], rpc(function))
        await site.worker(SUPABASE_URL=proxy.url).queue.rpc(function, params)
        assert proxy.struck == 1
    twice = state(site)

    await site.worker().queue.rpc(function, params)

    assert state(site) == twice
    assert (before == twice) == (function in QUESTIONS)


def order(site: Site) -> dict[str, object]:
    """An order of two jobs."""
    return {"userId": site.user, **fresh_order(("a", "b"), 1, site.photo)}


async def enqueued(site: Site, queue: Queue, key: str | None) -> Mapping[str, Any]:
    """The answer to the order."""
    return await queue.enqueue(order(site), key, timeout_seconds=3.0)


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault in QUICK else pytest.mark.slow) for fault in FAULTS]
)
async def test_order_with_a_key(site: Site, fault: str) -> None:
    """With a key an order is accepted exactly once, whatever happens to its request."""
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(FAULTS[fault], rpc("enqueue_generation_batch"))
        answer = await enqueued(site, site.worker(SUPABASE_URL=proxy.url).queue, "key")
        assert proxy.struck == 1
        await proxy.deliver_late()

    jobs = site.rows("select * from photo_generation_queue order by id")
    assert [job["id"] for job in jobs] == answer["jobIds"]
    assert {job["batchId"] for job in jobs} == {answer["batchId"]}
    assert (await site.run())["completed"] == 2
    site.audit()


@pytest.mark.parametrize(("fault", "taken"), [(faults.answer_lost, 1), (faults.reset, 0)])
async def test_order_without_a_key(site: Site, fault: Fault, taken: int) -> None:
    """Without a key an order is sent once: the caller learns that it may or may not have been accepted."""
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(fault, rpc("enqueue_generation_batch"))
        with pytest.raises(QueueUnavailable):
            await enqueued(site, site.worker(SUPABASE_URL=proxy.url).queue, None)
        assert len(proxy.seen) == 1

    assert len(site.rows("select from photo_generation_batches")) == taken


def test_every_call_is_in_the_matrix() -> None:
    """Whatever the worker asks of the database or does to its bucket is disturbed in some test here."""
    text = "".join(path.read_text() for path in WORKER.rglob("*.py") if path.stem != "check")
    asked = {function for function in FUNCTIONS if f'"{function}"' in text} | {"generation_schema_version"}
    disturbed = CALLS.keys() | SWEEPING.keys() | OPERATIONS.keys() | QUESTIONS.keys()
    assert asked == (disturbed & FUNCTIONS.keys()) | {"enqueue_generation_batch"}
    for module, calls in (("storage", CALLS), ("folders", SWEEPING)):
        done = set(re.findall(r"_bucket\(\)\.(\w+)", (WORKER / "supabase" / f"{module}.py").read_text()))
        done -= {"create_signed_url"}  # no run calls it; tests/supabase/test_signed_urls.py disturbs it
        assert done and done <= calls.keys(), module
