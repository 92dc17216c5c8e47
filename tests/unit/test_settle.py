"""Outcomes on their way into the database: each with its delay, attempt and reason."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import a_job
from worker.run.outcome import JobEnd, JobOutcome, JobResult
from worker.run.settle import UNKNOWN_QUOTA_DELAY_SECONDS, settlement
from worker.settings import Settings

ENV = {
    "SUPABASE_URL": "https://abc.supabase.co",
    "SUPABASE_SERVICE_ROLE_KEY": "key",
    "GEMINI_API_KEY": "key",
}
SETTINGS = Settings.from_env(ENV, "w")
UNIFORM = random.Random(3).uniform


def end(
    result: JobResult, delay_seconds: float | None = None, attempt: int = 1, until_daily_reset: bool = False
) -> JobEnd:
    """A job that ended so."""
    outcome = JobOutcome(result, "a", "b", delay_seconds, until_daily_reset, attempt_spent=False)
    return JobEnd(a_job(attempt=attempt), (), outcome)


def test_every_settlement_carries_the_fence() -> None:
    """Whatever the outcome, the claim's fence goes with it, and so do the reason and the attempt."""
    results: tuple[JobResult, ...] = ("completed", "failed", "retry", "rate_limited", "released")
    for each in results:
        result = settlement(end(each), SETTINGS, UNIFORM)
        assert (result.job_id, result.fence, result.outcome) == (1, "w/r/c", each)
        assert (result.code, result.message, result.attempt_spent) == ("a", "b", False)


@given(st.integers(1, 20), st.none() | st.floats(0, 500))
def test_a_retry_waits_within_its_window(attempt: int, server: float | None) -> None:
    """The durable retry is the policy's, by the job's own attempt."""
    result = settlement(end("retry", server, attempt), SETTINGS, UNIFORM)
    window = min(10 * 2 ** (attempt - 1), 600)
    assert (server or 0) <= result.retry_seconds <= (server or 0) + window


def test_a_quota_waits_at_least_as_long_as_it_says() -> None:
    """A stated delay is kept; without one a per-minute window passes; a daily one is left to the database."""
    stated = settlement(end("rate_limited", 30.0, attempt=9), SETTINGS, UNIFORM)
    assert 30 <= stated.retry_seconds <= 40
    unstated = settlement(end("rate_limited"), SETTINGS, UNIFORM)
    assert unstated.retry_seconds >= UNKNOWN_QUOTA_DELAY_SECONDS
    daily = settlement(end("rate_limited", 30.0, until_daily_reset=True), SETTINGS, UNIFORM)
    assert daily.until_daily_reset
    assert daily.retry_seconds <= 10


def test_an_abandoned_job_keeps_its_fence() -> None:
    """What is not ours any more is not written: only the requests that were sent for it are told."""
    result = settlement(end("abandoned"), SETTINGS, UNIFORM, requests=3)
    assert (result.fence, result.outcome, result.requests) == ("w/r/c", "released", 3)
