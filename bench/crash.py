"""Crash test: workers are killed with `kill -9` in every phase of their work; no job or image may be lost."""

from __future__ import annotations

import json
import random
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench.harness.bounds import whole
from bench.harness.scale import Scale
from bench.harness.site import Site
from bench.storm.audit import Audit, Auditor
from bench.storm.customers import USERS, Customers
from bench.storm.fleet import Fleet
from bench.storm.storm import Plan, Storm
from worker.gemini.models import DEFAULT_MODEL

PURPOSE = "kill -9 at every phase of the work, and an audit; about 25 minutes"
MOMENTS = ("random", "before", "during", "after", "late", "poison")
ROWS = {
    "lost": "jobs lost",
    "doubled": "images recorded twice",
    "photos": "images recorded",
    "paid": "images paid for",
    "in_flight_at_kill": "calls in flight at a kill",
    "paid_and_lost": "  paid for and lost",
    "discarded": "paid for and discarded: the order was cancelled",
    "not_stored": "paid for and not stored: the stack was down",
    "cut_by_runs": "paid for and cut at the end of a run",
    "cut_off": "runs that an outage kept from finishing",
    "poisoned": "poisonous jobs that failed alone",
    "crashed_alone": "healthy jobs that failed, each killed three times while alone",
    "orphans_before_sweep": "objects without a row",
    "orphans": "  after the sweeper (all ends moved back by 11 minutes for it)",
}
LATENCY = {"kind": "uniform", "low_seconds": 0.1, "high_seconds": 0.5}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument("--kills", type=whole(1), default=1000, metavar="N", help="how many (default: 1000)")
    parser.add_argument("--seed", type=whole(0), default=1, metavar="N", help="of the chance (default: 1)")
    parser.add_argument(
        "--workers", type=whole(1, 100), default=10, metavar="N", help="processes (default: 10)"
    )
    parser.add_argument(
        "--every", type=float, default=1.2, metavar="SECONDS", help="mean time between kills (default: 1.2)"
    )
    parser.add_argument(
        "--brief", action="store_true", help="end the leases of the dead by hand instead of waiting for them"
    )
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Kill, drain, audit and print; the last line is JSON. Exits with 1 if a promise is broken."""
    poisons, outages = max(options.kills // 250, 1), max(options.kills // 100, 2)
    plan = Plan(options.kills, options.workers, options.every, poisons, outages, options.brief)
    began = time.monotonic()
    found = crash(plan, options.seed, _say)
    _tell(found)
    _say(f"\n{time.monotonic() - began:.0f} s in all")
    _say(json.dumps(_figures(found)))
    if found.broken:
        sys.exit(1)


def crash(plan: Plan, seed: int, tell: Callable[[str], None]) -> Audit:
    """The whole test on its own stack."""
    chance = random.Random(seed)
    with ExitStack() as running:
        site = running.enter_context(Site(Scale(60.0), USERS))
        tell(site.hardware())
        _keep_commits(site)
        _open_gate(site)
        stack = site.stack
        folder = stack.postgres.folder
        fleet = Fleet(folder, stack.url, stack.secret_key, site.simulator.url, plan.seats)
        running.enter_context(fleet)
        storm = Storm(site, fleet, Customers(site, chance), chance, plan)
        storm.rage(tell)
        storm.drain()
        fleet.end()
        return Auditor(storm).judge()


def _keep_commits(site: Site) -> None:
    """Make commits survive a crash of PostgreSQL, but not of the machine."""
    site.stack.psql("alter database postgres set synchronous_commit = on")
    site.stack.supabase.restart()


def _open_gate(site: Site) -> None:
    """Set a rate that limits nothing, and allow more runs, since dead runs keep their places for a while."""
    site.call("set_generation_rate", p_model=DEFAULT_MODEL, p_rate=60_000, p_burst=1000)
    site.call("set_generation_limits", p_limits={"maxRuns": 1000})
    site.simulator.configure({"latency": LATENCY})


def _figures(found: Audit) -> dict[str, Any]:
    names = ("lost", "doubled", "paid_and_lost", "in_flight_at_kill", "crashed_alone", "orphans_before_sweep")
    figures = {"kills": found.kills.total(), **{name: getattr(found, name) for name in names}}
    return {**figures, "broken": len(found.broken)}


def _tell(found: Audit) -> None:
    _say(f"\n{'killed while':<21}" + "".join(f"{moment:>9}" for moment in (*MOMENTS, "all")))
    for phase in sorted({phase for phase, _ in found.kills}):
        counts = [found.kills[phase, moment] for moment in MOMENTS]
        _say(f"{phase:<21}" + "".join(f"{count or '·':>9}" for count in (*counts, sum(counts))))
    _say("")
    for status, count in found.jobs.most_common():
        _row(f"jobs {status}", count)
    for name, words in ROWS.items():
        _row(words, getattr(found, name))
    for line in found.told:
        _say(line)
    for line in found.broken[:40]:
        _say(f"BROKEN: {line}")


def _row(what: str, value: object) -> None:
    _say(f"{what:<68}{value!s:>10}")


def _say(line: str) -> None:
    print(line, flush=True)
