"""The queue's health in words: what somebody on call wants to know first."""

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
"""A clock calls every minute; with jobs due that nothing holds, five without a run are no coincidence."""


@dataclass(frozen=True, slots=True)
class Health:
    """How it is, in a word and in a sentence that says what to do if anything is to be done."""

    level: Level
    words: str

    def as_json(self) -> dict[str, str]:
        """The object of the HTTP answers."""
        return {"level": self.level, "words": self.words}


def health(stats: Stats) -> Health:
    """The first of the questions that has an answer, from the worst to the best."""
    for ask in QUESTIONS:
        found = ask(stats)
        if found:
            return found
    return Health("good", "All is well: nothing is due, nothing is stuck.")


def _misconfigured(stats: Stats) -> Health | None:
    run = stats["runs"]["lastFinished"]
    if not run or not (run["stopReason"] == "misconfigured" or _storage_lost(run)):
        return None
    said = run["problem"] or "`python -m worker check` names the mend."
    return Health("trouble", f"The last run could not work: {said}")


def _storage_lost(run: Mapping[str, Any]) -> bool:
    """Whether the run stopped because an image that was paid for was not stored, or not recorded."""
    return run["stopReason"] == "queue_lost" and run["problem"] is not None


def _nobody_came(stats: Stats) -> Health | None:
    idle = stats["runs"]["secondsSinceLast"]
    waited = min(stats["due"]["oldestSeconds"] or 0.0, math.inf if idle is None else idle)
    # A run that finds the gate closed claims nothing, and so leaves no row to be seen by.
    if waited < NOBODY_CAME_SECONDS or stats["runs"]["active"] or stats["heldBy"]:
        return None
    since = f"for {duration(idle)}" if idle is not None else "yet"
    return Health("trouble", f"Jobs are due, but no run has come {since}: is the clock on?")


def _never_came(stats: Stats) -> Health | None:
    if stats["runs"]["secondsSinceLast"] is not None:
        return None
    words = "No run has ever come: set up a clock (docs/deploy.md), or make one run with"
    return Health("attention", f"{words} `python -m worker tick`.")


def _paused(stats: Stats) -> Health | None:
    if not stats["gate"]["pausedAt"]:
        return None
    reason = stats["gate"]["pauseReason"]
    why = f" ({reason})" if reason else ""
    return Health("attention", f"Paused{why}: nothing starts until it is resumed.")


def _reported(stats: Stats) -> Health | None:
    """What the last run could not do although it went on: jobs wait for it."""
    run = stats["runs"]["lastFinished"]
    return Health("attention", f"The last run says: {run['problem']}") if run and run["problem"] else None


def _stale(stats: Stats) -> Health | None:
    stale = stats["stale"]
    if not stale:
        return None
    return Health("attention", f"{count(stale, 'job')} of dead workers: the next run takes them back.")


def _failing(stats: Stats) -> Health | None:
    day = stats["lastDay"]
    if day["failed"] < 3 or day["failed"] < 0.2 * (day["failed"] + day["completed"]):
        return None
    worst = max(day["failuresByCode"].items(), key=lambda pair: pair[1])[0]
    words = f"{count(day['failed'], 'job')} failed within a day, {day['completed']} were completed"
    return Health("attention", f"{words}; most for {worst}.")


def _capped(stats: Stats) -> Health | None:
    held = _held_jobs(stats, "daily_cap")
    if not held:
        return None
    words = f"The daily cap is used up ({cap_used(stats['gate'])}): {count(held, 'job')} waiting for midnight"
    return Health("attention", f"{words} in California, or for `gate set` to raise it.")


def _out_of_quota(stats: Stats) -> Health | None:
    held, seconds = _held_jobs(stats, "rate_limited"), _blocked_seconds(stats)
    if not held or seconds < LONG_BLOCK_SECONDS:
        return None
    words = f"Gemini's quota is used up for another {duration(seconds)}: {count(held, 'job')} waiting for it"
    return Health("attention", f"{words}; once Google has raised it, `gate resume` ends the block.")


def _blocked(stats: Stats) -> Health | None:
    held, seconds = _held_jobs(stats, "rate_limited"), _blocked_seconds(stats)
    if not held:
        return None
    until = f", for another {duration(seconds)}" if seconds else ""
    return Health("busy", f"{count(held, 'job')} waiting for Gemini's quota{until}.")


def _held_jobs(stats: Stats, by: str) -> int:
    """How many jobs this holds; none where something else does, or nothing."""
    if stats["heldBy"] != by:
        return 0
    return int(max(stats["due"]["jobs"], stats["ready"] + stats["rateLimited"]))


def _blocked_seconds(stats: Stats) -> float:
    return max((gate["blockedForSeconds"] for gate in stats["gate"]["gates"]), default=0.0)


def _working(stats: Stats) -> Health | None:
    working, ready = stats["processing"], stats["ready"]
    if working:
        return Health("busy", f"{count(working, 'job')} being made, {ready} more ready.")
    if ready:
        return Health("busy", f"{count(ready, 'job')} ready for the next run.")
    waiting = stats["waiting"] + stats["rateLimited"]
    if waiting:
        return Health("good", f"Nothing is due; {count(waiting, 'job')} waiting for another try.")
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
    """What to say instead of a verdict while there are no numbers."""
    return f"The database cannot be reached ({error.message}); asking again."


def count(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`40 s`, `7 min`, `3 h`, `2 days`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
