"""The queue's health in one sentence, for the operator on call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from worker.errors import QueueUnavailable
from worker.ops.check_rate_limit import LONG_BLOCK_SECONDS
from worker.ops.status_text import cap_used

Level = Literal["good", "busy", "attention", "trouble"]
Stats = Mapping[str, Any]

NOBODY_CAME_SECONDS = 300.0
"""A clock starts a run every minute. If jobs are due and none starts for this long, the clock has failed."""


@dataclass(frozen=True, slots=True)
class Health:
    """A level, and a sentence that says what is wrong and what to do."""

    level: Level
    words: str

    def as_json(self) -> dict[str, str]:
        """The object in HTTP responses."""
        return {"level": self.level, "words": self.words}


def health(stats: Stats) -> Health:
    """The first match of QUESTIONS, which are ordered from the worst to the best."""
    for ask in QUESTIONS:
        found = ask(stats)
        if found:
            return found
    return Health("good", "All is well: no job is due, no job is stuck.")


def _misconfigured(stats: Stats) -> Health | None:
    run = stats["runs"]["lastFinished"]
    if not run or not (run["stopReason"] == "misconfigured" or _storage_lost(run)):
        return None
    problem = run["problem"] or "`python -m worker check` says how to fix it."
    return Health("trouble", f"The last run failed: {problem}")


def _storage_lost(run: Mapping[str, Any]) -> bool:
    """Whether the run stopped because a paid image could not be stored or recorded."""
    return run["stopReason"] == "queue_lost" and run["problem"] is not None


def _nobody_came(stats: Stats) -> Health | None:
    idle = stats["runs"]["secondsSinceLast"]
    waited = min(stats["due"]["oldestSeconds"] or 0.0, math.inf if idle is None else idle)
    # With a closed gate (`heldBy`) runs claim nothing and leave no row, so their absence proves nothing.
    if waited < NOBODY_CAME_SECONDS or stats["runs"]["active"] or stats["heldBy"]:
        return None
    since = f"for {duration(idle)}" if idle is not None else "yet"
    words = f"Jobs are due, but no run has started {since}: check that the clock"
    return Health("trouble", f"{words} (Cloud Scheduler or pg_cron) is running.")


def _never_came(stats: Stats) -> Health | None:
    if stats["runs"]["secondsSinceLast"] is not None:
        return None
    words = "No run has started yet: set up a clock (docs/deploy.md), or start one run with"
    return Health("attention", f"{words} `python -m worker tick`.")


def _paused(stats: Stats) -> Health | None:
    if not stats["gate"]["pausedAt"]:
        return None
    reason = stats["gate"]["pauseReason"]
    why = f" ({reason})" if reason else ""
    return Health("attention", f"Paused{why}: no image starts until `gate resume`.")


def _reported(stats: Stats) -> Health | None:
    """A problem that made jobs of the last run wait, but did not stop the run."""
    run = stats["runs"]["lastFinished"]
    return Health("attention", f"The last run reports: {run['problem']}") if run and run["problem"] else None


def _stale(stats: Stats) -> Health | None:
    stale = stats["stale"]
    if not stale:
        return None
    if stale == 1:
        return Health("attention", "1 job's worker died; the next run will pick it up.")
    return Health("attention", f"The workers of {stale} jobs died; the next run will pick them up.")


def _failing(stats: Stats) -> Health | None:
    day = stats["lastDay"]
    if day["failed"] < 3 or day["failed"] < 0.2 * (day["failed"] + day["completed"]):
        return None
    worst = max(day["failuresByCode"].items(), key=lambda pair: pair[1])[0]
    words = f"In the last 24 hours {count(day['failed'], 'job')} failed and {day['completed']} completed"
    return Health("attention", f"{words}; most failed with {worst}.")


def _capped(stats: Stats) -> Health | None:
    held = _held_jobs(stats, "daily_cap")
    if not held:
        return None
    words = (
        f"The daily cap is reached ({cap_used(stats['gate'])}): {_waits(held)} until midnight in California"
    )
    return Health("attention", f"{words}, or until `gate set` raises the cap.")


def _out_of_quota(stats: Stats) -> Health | None:
    held, seconds = _held_jobs(stats, "rate_limited"), _blocked_seconds(stats)
    if not held or seconds < LONG_BLOCK_SECONDS:
        return None
    words = f"Gemini's quota is used up: {_waits(held)} for another {duration(seconds)}"
    return Health("attention", f"{words}. If Google raises the quota, `gate resume` ends the wait.")


def _blocked(stats: Stats) -> Health | None:
    held, seconds = _held_jobs(stats, "rate_limited"), _blocked_seconds(stats)
    if not held:
        return None
    until = f" for another {duration(seconds)}" if seconds else ""
    return Health("busy", f"{_waits(held)} for Gemini's quota{until}.")


def _held_jobs(stats: Stats, by: str) -> int:
    """How many jobs wait for this reason; 0 if the queue is held for another reason, or not at all."""
    if stats["heldBy"] != by:
        return 0
    return int(max(stats["due"]["jobs"], stats["ready"] + stats["rateLimited"]))


def _blocked_seconds(stats: Stats) -> float:
    return max((gate["blockedForSeconds"] for gate in stats["gate"]["gates"]), default=0.0)


def _working(stats: Stats) -> Health | None:
    working, ready = stats["processing"], stats["ready"]
    if working:
        return Health("busy", f"{count(working, 'job')} in progress, {ready} more ready.")
    if ready:
        return Health("busy", f"{count(ready, 'job')} ready for the next run.")
    waiting = stats["waiting"] + stats["rateLimited"]
    if waiting:
        return Health("good", f"No job is due; {_waits(waiting)} for a retry.")
    return None


QUESTIONS: tuple[Callable[[Stats], Health | None], ...] = (
    _misconfigured,
    _nobody_came,
    _paused,
    _never_came,
    _capped,
    _out_of_quota,
    _reported,
    _stale,
    _failing,
    _blocked,
    _working,
)


def unreachable(error: QueueUnavailable) -> str:
    """The sentence to show while the database does not answer."""
    return f"The database cannot be reached ({error.message}); retrying."


def count(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _waits(jobs: int) -> str:
    return "1 job waits" if jobs == 1 else f"{jobs} jobs wait"


def duration(seconds: float) -> str:
    """`40 s`, `7 min`, `3 h`, `2 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
