"""Crash proof: workers are killed with -9 at every phase of their work, and not one job or image is lost for it."""

from __future__ import annotations

import json
import random
import sys
import time
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from typing import Any

from bench.audit import Audit, Auditor
from bench.customers import USERS, Customers
from bench.fleet import Fleet
from bench.scale import Scale
from bench.site import Site
from bench.storm import Plan, Storm
from worker.model import DEFAULT_MODEL

PURPOSE = "kill -9 at every phase of the work, and an audit; about 25 minutes"
LATENCY = {"kind": "uniform", "low_seconds": 0.1, "high_seconds": 0.5}


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.add_argument("--kills", type=int, default=1000, metavar="N", help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the chance (default: 1)")
    parser.add_argument("--workers", type=int, default=10, metavar="N", help="processes (default: 10)")
    parser.add_argument(
        "--every", type=float, default=1.2, metavar="SECONDS", help="mean time between kills (default: 1.2)"
    )
    parser.add_argument(
        "--brief", action="store_true", help="end the leases of the dead by hand instead of waiting for them"
    )
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Kills, lets all drain, audits, and prints it; the last line is JSON. Exits with 1 if a promise is broken."""
    poisons, outages = max(options.kills // 250, 1), options.kills // 100
    plan = Plan(options.kills, options.workers, options.every, poisons, outages, options.brief)
    began = time.monotonic()
    found = crash(plan, options.seed, _say)
    _tell(found, plan)
    _say(f"\n{time.monotonic() - began:.0f} s in all")
    _say(json.dumps(_figures(found)))
    if found.broken:
        sys.exit(1)


def crash(plan: Plan, seed: int, tell: Any) -> Audit:
    """The whole proof on a stack of its own."""
    chance = random.Random(seed)
    with ExitStack() as running:
        site = running.enter_context(Site(Scale(60.0), USERS))
        tell(site.hardware())
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


def _open_gate(site: Site) -> None:
    """Starts are no constraint here, and dead runs keep their places for a while."""
    site.call("set_generation_rate", p_model=DEFAULT_MODEL, p_rate=60_000, p_burst=1000)
    site.call("set_generation_limits", p_limits={"maxRuns": 1000})
    site.simulator.configure({"latency": LATENCY})


def _figures(found: Audit) -> dict[str, Any]:
    return {
        "kills": found.phases.total(),
        "lost": found.lost,
        "doubled": found.doubled,
        "paid_and_lost": found.paid_and_lost,
        "in_flight_at_kill": found.in_flight_at_kill,
        "broken": len(found.broken),
    }


def _tell(found: Audit, plan: Plan) -> None:
    for phase, count in found.phases.most_common():
        _row("killed while", phase, count)
    for status, count in found.jobs.most_common():
        _row("jobs", status, count)
    for name in Audit.__slots__:
        value = getattr(found, name)
        if isinstance(value, int):
            _row("", name, value)
    for line in found.broken[:40]:
        _say(f"BROKEN: {line}")


def _row(part: str, what: str, value: object) -> None:
    _say(f"{part:<15}{what:<52}{value!s:>10}")


def _say(line: str) -> None:
    print(line, flush=True)
