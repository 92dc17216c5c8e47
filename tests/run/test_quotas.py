"""What a 429 means for the job, its attempts and the run, in every form that Google sends."""

import asyncio
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.support.runs import MODEL, Site
from worker.errors import QUOTA_USED_UP
from worker.run.request import RunRequest

JITTER = 0.1  # RETRY_BASE_SECONDS of these tests: the width of the first retry's window
AGO = 60.0  # how long before a look at the row the job may have been settled

PER_MINUTE = {
    # shape of the 429: the delay it names, or what is assumed where it names none
    "full": 47.0,
    "several": 47.0,
    "no_value": 47.0,
    "fractional": 47.5,
    "list": 47.0,
    "no_retry_info": 60.0,
    "error_info": 60.0,
    "bare": 60.0,
    "vertex": 60.0,
}
PER_DAY = ("full", "several", "no_value", "error_info", "help_only")


def next_midnight_in_california() -> float:
    """Seconds until then."""
    now = datetime.now(ZoneInfo("America/Los_Angeles"))
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), now.tzinfo)
    return midnight.timestamp() - now.timestamp()


@pytest.mark.parametrize(("shape", "delay"), PER_MINUTE.items())
async def test_a_429_per_minute_postpones_the_job_unspent(site: Site, shape: str, delay: float) -> None:
    """For as long as it says, plus a little."""
    site.gemini.add_rule({"kind": "quota", "shape": shape, "retry_seconds": 47.0})
    (job,) = await site.order("a")

    summary = await site.run(RunRequest(budget_seconds=6))

    row = site.job(job)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("rate_limited", 0, "rate_limited")
    assert row["errorMessage"] == QUOTA_USED_UP  # its customer learns neither the quota nor its value
    assert delay - AGO < row["due"] <= delay + JITTER
    assert (summary["rateLimited"], summary["images"]["erred"]) == (1, 1)
    # A lone 429 without a new limit slows the gate down and does not close it.
    assert summary["stopReason"] in ("rate_limited", "queue_empty")
    assert site.batch(job) == "generating"
    site.make_due()
    site.audit(summary, await site.run())
    assert site.job(job)["attempts"] == 1


@pytest.mark.parametrize("shape", PER_DAY)
async def test_a_429_per_day_postpones_the_job_until_midnight_in_california(site: Site, shape: str) -> None:
    """Nothing more is started."""
    site.gemini.add_rule({"kind": "quota", "shape": shape, "period": "day", "retry_seconds": 7.0}, times=None)
    jobs = await site.order("a", "b", "c")

    summary = await site.run(IMAGES_AT_A_TIME="1")

    assert summary["stopReason"] == "rate_limited"
    assert len(site.calls()) == 1
    expected = next_midnight_in_california()
    asked = [site.job(job) for job in jobs if site.job(job)["status"] == "rate_limited"]
    assert len(asked) == 1
    assert expected - AGO < asked[0]["due"] <= expected + JITTER + AGO
    others = [site.job(job) for job in jobs if site.job(job)["status"] == "pending"]
    assert [(row["attempts"], row["retryAt"]) for row in [*others, asked[0]]] == [(0, None)] * 2 + [
        (0, asked[0]["retryAt"])
    ]
    site.audit(summary)


async def test_a_quota_of_zero_is_misconfigured(site: Site) -> None:
    """A quota of zero never resets, so the run releases its jobs unspent."""
    site.gemini.configure(quotas={"*": 0})
    jobs = await site.order("a", "b", images=2)

    summary = await site.run()

    assert summary["stopReason"] == "misconfigured"
    assert "billing" in summary["problem"]
    for job in jobs:
        row = site.job(job)
        assert (row["status"], row["attempts"], row["retryAt"]) == ("pending", 0, None)
    site.audit(summary)


def learned(site: Site) -> list[object]:
    """What the gates have learned from 429s."""
    columns = '"learnedRate", "learnedFrom", epoch, "blockedUntil", "limitedAt", limits'
    return [tuple(row.values()) for row in site.rows(f"select {columns} from generation.gates")]


@pytest.mark.parametrize("shape", ["no_credit", "spending_cap"])
async def test_a_bill_that_nobody_pays_stops_the_run_and_teaches_nothing(site: Site, shape: str) -> None:
    """Without credit, or at the monthly cap, runs stop until somebody pays: nothing is spent or learned."""
    await site.order("before")
    first = await site.run()
    before = learned(site)
    site.gemini.add_rule({"kind": "quota", "shape": shape}, times=None)
    jobs = await site.order("a", "b")

    summary = await site.run(IMAGES_AT_A_TIME="1")

    assert (summary["stopReason"], len(site.calls("a")) + len(site.calls("b"))) == ("misconfigured", 1)
    assert "Google AI Studio" in summary["problem"]
    assert "ai.studio" not in summary["problem"]
    for job in jobs:
        row = site.job(job)
        assert (row["status"], row["attempts"], row["retryAt"]) == ("pending", 0, None)
    assert {site.job(job)["errorCode"] for job in jobs} == {"billing", "stopped"}
    assert learned(site) == before
    site.audit(first, summary)


async def test_googles_overload_is_retried_like_a_503_and_teaches_nothing(site: Site) -> None:
    """A 429 for Google's own capacity is retried at once, then later with an attempt spent."""
    await site.order("before")
    first = await site.run()
    before = learned(site)
    site.gemini.add_rule({"kind": "quota", "shape": "capacity"}, prompt="[once]", times=1)
    site.gemini.add_rule({"kind": "quota", "shape": "capacity"}, prompt="[twice]", times=2)
    once, twice = await site.order("once", "twice")

    second = await site.run(RunRequest(max_jobs=2))

    row = site.job(twice)
    assert site.job(once)["status"] == "completed"
    assert (row["status"], row["attempts"]) == ("pending", 1)
    assert row["errorCode"] == "model_capacity_exhausted"
    assert learned(site) == before
    site.make_due()
    site.audit(first, second, await site.run())


async def test_a_run_claims_again_what_its_gate_can_start_next(site: Site) -> None:
    """A claim gives what the gate can start soon: the next does not wait until all of it has ended."""
    site.rows("select set_generation_rate(%s, 60, 1, 6, 0.1)", MODEL)  # a start each 0.1 s, claimed 1 s ahead
    site.gemini.add_rule({"kind": "image", "hold": True}, times=None)
    await site.order(*"abcdefghijklmno")

    running = asyncio.create_task(site.run(JOBS_AT_A_TIME="20", IMAGES_AT_A_TIME="20"))

    await site.open_calls(15)
    site.gemini.release()
    assert (await running)["completed"] == 15
