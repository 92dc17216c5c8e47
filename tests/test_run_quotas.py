"""What a 429 means for the job, its attempts and the run, in every shape that Google sends."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.runs import Site
from worker.request import RunRequest

pytest_plugins = ("tests.runs",)

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
async def test_quota_per_minute(site: Site, shape: str, delay: float) -> None:
    """A 429 for a quota per minute puts the job aside, unspent, for as long as it says, and a little more."""
    site.gemini.add_rule({"kind": "quota", "shape": shape, "retry_seconds": 47.0})
    (job,) = await site.order("a")

    summary = await site.run(RunRequest(budget_seconds=6))

    row = site.job(job)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("rate_limited", 0, "rate_limited")
    assert delay - AGO < row["due"] <= delay + JITTER
    assert (summary["rateLimited"], summary["images"]["erred"]) == (1, 1)
    # A lone 429 without a new limit slows the gate down and does not close it.
    assert summary["stopReason"] in ("rate_limited", "queue_empty")
    assert site.batch(job) == "generating"
    site.make_due()
    site.audit(summary, await site.run())
    assert site.job(job)["attempts"] == 1


@pytest.mark.parametrize("shape", PER_DAY)
async def test_quota_per_day(site: Site, shape: str) -> None:
    """A 429 for a quota per day puts the job aside until midnight in California and starts nothing more."""
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


async def test_quota_of_zero(site: Site) -> None:
    """A quota of zero never comes back: the run stops, misconfigured, and gives all back unspent."""
    site.gemini.configure(quotas={"*": 0})
    jobs = await site.order("a", "b", images=2)

    summary = await site.run()

    assert summary["stopReason"] == "misconfigured"
    assert "billing" in summary["problem"]
    for job in jobs:
        row = site.job(job)
        assert (row["status"], row["attempts"], row["retryAt"]) == ("pending", 0, None)
    site.audit(summary)
