"""The summary: every image and job is counted once."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_outcome import outcomes
from worker.run.outcome import ImageOutcome
from worker.run.summary import IMAGE_COUNTS, Summary


@given(st.lists(st.lists(outcomes, max_size=8), max_size=8))
def test_the_counts_add_up(jobs: list[list[ImageOutcome]]) -> None:
    """The image counts of a summary sum to the images worked on, whatever became of them."""
    summary = Summary("r", "w", "m")
    for images in jobs:
        summary.add_images(images)
    assert sum(summary.as_json(0)["images"].values()) == sum(len(images) for images in jobs)


def test_every_status_has_its_count() -> None:
    """Each status the database can answer shows in the summary, and a lost lease as such."""
    summary = Summary("r", "w", "m")
    for status in ("completed", "failed", "pending", "rate_limited", None):
        summary.add_job(status)
    told = summary.as_json(1.23456)
    counts = [told[name] for name in ("completed", "failed", "retried", "rateLimited", "leaseLost")]
    assert counts == [1, 1, 1, 1, 1]
    assert told["durationSeconds"] == 1.235
    assert set(told["images"]) == set(IMAGE_COUNTS)


@given(st.lists(st.sampled_from([None, *(f"code_{number}" for number in range(30))]), max_size=200))
def test_every_failure_is_counted_and_few_are_named(codes: list[str | None]) -> None:
    """A summary counts all failed jobs, also one without a code, and names the ten most common codes."""
    summary = Summary("r", "w", "m")
    for code in codes:
        summary.add_job("failed", code)
    told = summary.as_json(0)
    assert sum(told["failuresByCode"].values()) == told["failed"] == len(codes)
    assert len(told["failuresByCode"]) <= 11
    if len(set(codes)) <= 10:
        assert told["failuresByCode"] == Counter(code or "unknown" for code in codes)
    assert set(told["failuresByCode"]) <= {*(code or "unknown" for code in codes), "other_codes"}


def test_what_stops_the_run_is_the_problem_that_is_shown() -> None:
    """One that concerns some orders only is shown while nothing else is."""
    summary = Summary("r", "w", "m", order_problem="the bucket does not exist")
    assert summary.as_json(0)["problem"] == "the bucket does not exist"
    summary.stop.abort("misconfigured", "the key is wrong")
    assert summary.as_json(0)["problem"] == "the key is wrong"


def test_what_the_end_of_time_cut_is_told_apart() -> None:
    """A call cut by the deadline may have been billed: it has a count of its own."""
    summary = Summary("r", "w", "m")
    summary.add_images([ImageOutcome("cut")])
    assert summary.as_json(0)["images"]["cut"] == 1
