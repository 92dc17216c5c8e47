"""Whether a run outlives its invocation when calls hang, and how soon it answers after SIGTERM."""

from __future__ import annotations

import asyncio
import json
import random
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.harness.bounds import whole
from bench.harness.scale import Scale
from bench.harness.site import Site
from bench.trials.plan import draw, draw_stopped
from bench.trials.spent import Images, images, unsent_attempts
from bench.trials.trial import KILL_SECONDS, USER, Result, Trials

PURPOSE = "runs against their deadlines, whatever hangs, and against SIGTERM; about ten minutes"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument("--runs", type=whole(1), default=1000, help="runs; a fifth as many more get SIGTERM")
    parser.add_argument("--at-a-time", type=whole(1, 100), default=14, help="runs at once (default: 14)")
    parser.add_argument("--seed", type=whole(0), default=1, help="another one draws other runs")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Measure everything and print it; the last line is JSON."""
    began = time.monotonic()
    chance = random.Random(options.seed)
    with Site(Scale(6.0), (USER,)) as site:
        _say(site.hardware())
        _say(f"{options.at_a_time} runs at a time, in one process, each worker behind a relay of its own\n")
        trials = Trials(site)
        figures = _deadlines(trials, options, chance) | {"sigterm": _sigterm(trials, options, chance)}
    _say(f"\n{time.monotonic() - began:.0f} s in all")
    _say(json.dumps(figures))


def _deadlines(trials: Trials, options: Namespace, chance: random.Random) -> dict[str, Any]:
    plans = [draw(number, chance) for number in range(options.runs)]
    trials.begin()
    results = asyncio.run(_done(trials, plans, options.at_a_time))
    late = [result for result in results if result.is_late]
    spare = min(result.plan.budget_seconds - result.seconds for result in results)
    _row("deadlines", "runs, each with 5 to 9 s", f"{len(results)}")
    _row("", "answered after their time", f"{len(late)}")
    _row("", "  without what the machine stood still", f"{sum(r.undisturbed.is_late for r in late)}")
    _row("", "least time left at an answer", f"{spare:.2f} s")
    _row("", "most that the machine stood still in a run", f"{_stood_still(results):.2f} s")
    _row("", "ended by", _reasons(results))
    _row("", "wasted: last that stayed to answer ÷ time", f"{_wasted(results):.1%}")
    calm = [result for result in results if result.plan.is_calm]
    _row("", f"  of {len(calm)} runs for which nothing was planned", f"{_wasted(calm):.1%}")
    _tell_images(_images(trials))
    return {
        "runs": len(results),
        "past_timeout": len(late),
        "wasted_share": round(_wasted(results), 4),
    }


def _sigterm(trials: Trials, options: Namespace, chance: random.Random) -> dict[str, Any]:
    plans = [draw_stopped(number, chance) for number in range(max(options.runs // 5, 1))]
    trials.begin()
    results = asyncio.run(_done(trials, plans, options.at_a_time))
    seconds = sorted(result.seconds_after_stop for result in results if result.stopped)
    slowest = seconds[-1] if seconds else 0.0
    unsent = _unsent(trials)
    _row("sigterm", "runs stopped while at work", f"{len(seconds)}")
    killed = [result for result in results if result.is_killed]
    _row("", f"answered later than after {KILL_SECONDS:g} s", f"{len(killed)}")
    _row("", "  without what the machine stood still", f"{sum(r.undisturbed.is_killed for r in killed)}")
    _row("", "slowest answer", f"{slowest:.2f} s")
    if seconds:
        _row("", "p99", f"{seconds[len(seconds) * 99 // 100]:.2f} s")
        _row("", "median", f"{seconds[len(seconds) // 2]:.2f} s")
    _row("", "most that the machine stood still in a run", f"{_stood_still(results):.2f} s")
    _row("", "ended by", _reasons(results))
    _row("", "attempts spent without a request sent", f"{unsent}")
    _tell_images(_images(trials))
    return {
        "runs": len(seconds),
        "slowest_seconds": round(slowest, 2),
        "attempts_spent_unsent": unsent,
    }


async def _done(trials: Trials, plans: Sequence[Any], at_a_time: int) -> list[Result]:
    results = await trials.run_all(plans, at_a_time)
    await trials.finish_all()
    return results


def _wasted(results: Sequence[Result]) -> float:
    """The time at the ends of runs without a lasting result ÷ all the time they were given."""
    given = sum(result.plan.budget_seconds for result in results)
    return sum(result.wasted_seconds for result in results) / max(given, 1e-9)


def _stood_still(results: Sequence[Result]) -> float:
    return max(result.stood_still_seconds for result in results)


def _reasons(results: Sequence[Result]) -> str:
    counts = Counter(result.reason for result in results).most_common()
    return ", ".join(f"{count} {reason}" for reason, count in counts)


def _images(trials: Trials) -> Images:
    kept = int(trials.site.stack.psql("select count(*) from photo_generation_photos"))
    uploads = trials.journal.counts["image_arrived_and_erred"]
    return images(trials.site.simulator.ledger(), kept, trials.discarded, uploads)


def _tell_images(found: Images) -> None:
    _row("", "images paid for, kept", f"{found.paid}, {found.kept}")
    _row("", "paid for and lost ≤ calls and uploads cut", f"{found.lost} ≤ {found.cut_in_flight}")


def _unsent(trials: Trials) -> int:
    rows = trials.site.rows("select id, attempts, status from photo_generation_queue")
    attempts = {int(row["id"]): int(row["attempts"]) for row in rows}
    completed = {int(row["id"]) for row in rows if row["status"] == "completed"}
    calls = trials.site.simulator.ledger()
    return unsent_attempts(attempts, trials.journal.claims, trials.jobs, calls, completed)


def _row(part: str, what: str, value: str) -> None:
    _say(f"{part:<12}{what:<52}{value:>18}")


def _say(line: str) -> None:
    print(line, flush=True)
