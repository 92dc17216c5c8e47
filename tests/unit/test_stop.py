"""Why a run ends: the gravest reason, with what has to be fixed, and whether anything may still start."""

from __future__ import annotations

import asyncio

import pytest

from worker.run.stop import Stop, StopReason, known_reason


@pytest.mark.parametrize(
    ("first", "second", "stands"),
    [
        ("budget", "queue_lost", "queue_lost"),
        ("queue_lost", "shutdown", "shutdown"),
        ("shutdown", "misconfigured", "misconfigured"),
        ("misconfigured", "shutdown", "misconfigured"),
        ("queue_empty", "max_jobs", "queue_empty"),
    ],
)
def test_the_gravest_reason_stands(first: StopReason, second: StopReason, stands: str) -> None:
    """Of two reasons as grave the first stands; a milder one takes nothing away."""
    stop = Stop()
    stop.end(first, f"fix {first}")
    stop.end(second, f"fix {second}")
    assert (stop.reason, stop.problem) == (stands, f"fix {stands}")


def test_a_problem_is_kept_when_a_reason_without_one_follows() -> None:
    """A problem that comes later for the same reason is reported too."""
    stop = Stop()
    stop.end("queue_lost")
    stop.end("queue_lost", "Storage keeps nothing")
    stop.end("shutdown")
    assert (stop.reason, stop.problem) == ("shutdown", "Storage keeps nothing")


def test_ending_claims_lets_what_was_claimed_start() -> None:
    """Aborting does not."""
    stop = Stop()
    stop.end("max_jobs")
    assert not stop.paused
    stop.abort("shutdown")
    assert stop.paused


def test_an_ended_run_does_not_resume() -> None:
    """A pause that was for a change of the model outlives it if the run has ended meanwhile."""
    stop = Stop()
    stop.pause()
    stop.resume()
    assert not stop.paused
    stop.pause()
    stop.end("budget")
    stop.resume()
    assert stop.paused


async def test_a_pause_wakes_a_sleeper() -> None:
    """Nobody waits for a start that does not come."""
    stop = Stop()
    sleeper = asyncio.create_task(stop.sleep(3600))
    await asyncio.sleep(0)
    stop.pause()
    await asyncio.wait_for(sleeper, 30)


@pytest.mark.parametrize("told", [None, "isolated", "queue_empty", "of a later version"])
def test_a_claim_that_gave_no_known_reason_ends_the_run_for_the_usual_one(told: str | None) -> None:
    """What the database says is a reason only if the summary knows it."""
    assert known_reason(told, "queue_empty") == "queue_empty"
    assert known_reason("paused", "queue_empty") == "paused"
