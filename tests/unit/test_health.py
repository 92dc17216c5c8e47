"""The queue's health in words: the worst comes first, and each says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from worker.ops.health import duration, health

GATE: dict[str, Any] = {"pausedAt": None, "pauseReason": None, "gates": []}
STATS: dict[str, Any] = {
    "due": {"jobs": 0, "images": 0, "oldestSeconds": None},
    "ready": 0,
    "waiting": 0,
    "rateLimited": 0,
    "processing": 0,
    "stale": 0,
    "lastDay": {"completed": 0, "failed": 0, "failuresByCode": {}},
    "runs": {"active": 0, "secondsSinceLast": 20.0, "lastFinished": None},
    "gate": GATE,
    "heldBy": None,
}
DUE = {"due": {"jobs": 4, "images": 9, "oldestSeconds": 900.0}, "ready": 4}
BLOCKED = {
    "gate": GATE | {"gates": [{"blockedForSeconds": 0.0}, {"blockedForSeconds": 260.0}]},
    "heldBy": "rate_limited",
}
DAY_QUOTA = {"gate": GATE | {"gates": [{"blockedForSeconds": 18_000.0}]}, "heldBy": "rate_limited"}
PACED = {"gate": GATE | {"gates": [{"blockedForSeconds": 0.0}]}, "heldBy": "rate_limited"}
USED = {"dollarsPerDay": 20, "spentToday": 19.97, "imagesPerDay": None, "startedToday": 512}
CAPPED = {"gate": GATE | USED, "heldBy": "daily_cap"}
CAPPED_TWICE = {"gate": GATE | USED | {"imagesPerDay": 600}, "heldBy": "daily_cap"}
FAILING = {"lastDay": {"completed": 6, "failed": 5, "failuresByCode": {"photo_missing": 1, "crashed": 4}}}
PAUSED = {
    "gate": GATE | {"pausedAt": "2026-05-04T12:00:00+00:00", "pauseReason": "the bill"},
    "heldBy": "paused",
}
NOBODY = {"runs": {"active": 0, "secondsSinceLast": 420.0, "lastFinished": None}}
NEVER = {"runs": {"active": 0, "secondsSinceLast": None, "lastFinished": None}}
LONG = {"runs": {"active": 1, "secondsSinceLast": 400.0, "lastFinished": None}}
BROKEN = {"stopReason": "misconfigured", "problem": "The key is not valid."}
WAITING = {"stopReason": "queue_empty", "problem": "Bucket my-uploads is not there: create it."}
REPORTED = {"runs": {"active": 0, "secondsSinceLast": 20.0, "lastFinished": WAITING}}
MISCONFIGURED = {"runs": {"active": 0, "secondsSinceLast": 20.0, "lastFinished": BROKEN}}

NEVER_CAME = (
    "No run has started yet: set up a clock (docs/deploy.md), or start one run with `python -m worker tick`."
)

CLOCK = "check that the clock (Cloud Scheduler or pg_cron) is running."


@pytest.mark.parametrize(
    ("numbers", "level", "words"),
    [
        ({}, "good", "All is well: no job is due, no job is stuck."),
        ({"waiting": 1, "rateLimited": 1}, "good", "No job is due; 2 jobs wait for a retry."),
        (DUE, "busy", "4 jobs ready for the next run."),
        (DUE | {"processing": 1}, "busy", "1 job in progress, 4 more ready."),
        (DUE | BLOCKED, "busy", "4 jobs wait for Gemini's quota for another 4 min."),
        (DUE | PACED | NOBODY, "busy", "4 jobs wait for Gemini's quota."),
        (DUE | DAY_QUOTA | NOBODY | FAILING, "attention",
            "Gemini's quota is used up: 4 jobs wait for another 5 h. "
            "If Google raises the quota, `gate resume` ends the wait."),
        (DUE | CAPPED | NOBODY | FAILING, "attention",
            "The daily cap is reached ($19.97 of $20.00): 4 jobs wait until midnight in California, "
            "or until `gate set` raises the cap."),
        ({"rateLimited": 1} | CAPPED_TWICE, "attention",
            "The daily cap is reached ($19.97 of $20.00, 512 of 600 images): 1 job waits until midnight in "
            "California, or until `gate set` raises the cap."),
        (CAPPED | {"waiting": 2, "due": {"jobs": 2, "images": 2, "oldestSeconds": 900.0}}, "attention",
            "The daily cap is reached ($19.97 of $20.00): 2 jobs wait until midnight in California, "
            "or until `gate set` raises the cap."),
        (CAPPED, "good", "All is well: no job is due, no job is stuck."),
        (BLOCKED, "good", "All is well: no job is due, no job is stuck."),
        (FAILING, "attention",
            "In the last 24 hours 5 jobs failed and 6 completed; most failed with crashed."),
        (FAILING | REPORTED, "attention", "The last run reports: Bucket my-uploads is not there: create it."),
        (DUE | {"stale": 1}, "attention", "1 job's worker died; the next run will pick it up."),
        (DUE | {"stale": 2}, "attention", "The workers of 2 jobs died; the next run will pick them up."),
        (DUE | PAUSED | NOBODY, "attention", "Paused (the bill): no image starts until `gate resume`."),
        (DUE | NOBODY, "trouble", f"Jobs are due, but no run has started for 7 min: {CLOCK}"),
        (DUE | NEVER, "trouble", f"Jobs are due, but no run has started yet: {CLOCK}"),
        (NEVER, "attention", NEVER_CAME),
        ({"ready": 1} | NEVER, "attention", NEVER_CAME),
        (DUE | LONG, "busy", "4 jobs ready for the next run."),
        (DUE | MISCONFIGURED, "trouble", "The last run failed: The key is not valid."),
    ],
)  # fmt: skip
def test_the_verdict_names_the_worst_problem_and_the_next_step(
    numbers: dict[str, Any], level: str, words: str
) -> None:
    """In one sentence."""
    found = health(STATS | numbers)
    assert found.as_json() == {"level": level, "words": words}


def test_an_idle_queue_needs_no_run() -> None:
    """Runs that find nothing leave no row, so their absence alone is no trouble."""
    runs = {"active": 0, "secondsSinceLast": 90_000.0, "lastFinished": None}
    assert health(STATS | {"runs": runs}).level == "good"


def test_failures_in_passing_are_none() -> None:
    """Two failures, or few among many, raise no alarm."""
    few = {"completed": 0, "failed": 2, "failuresByCode": {"crashed": 2}}
    many = {"completed": 400, "failed": 5, "failuresByCode": {"crashed": 5}}
    for day in (few, many):
        assert health(STATS | {"lastDay": day}).level == "good"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0 s"), (119.0, "119 s"), (120.0, "2 min"), (7_200.0, "2 h"), (260_000.0, "3 days")],
)
def test_a_duration_is_shown_in_one_unit(seconds: float, words: str) -> None:
    """The number is at least two of that unit."""
    assert duration(seconds) == words
