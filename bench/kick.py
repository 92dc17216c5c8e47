"""The time from an order to its first call to Gemini, with the kick and no schedule: the database calls the
worker.

Real: the database, the API, the served function, sql/schedule. Simulated: pg_net, Vault, Gemini.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from bench.harness.bounds import whole
from bench.harness.figures import hardware, spread
from local.simulator.gemini import Simulator
from local.simulator.ledger import Call
from local.stack.stack import Stack
from tests.support.clocked import Clocked, clocked
from tests.support.clone import wait_for
from tests.support.installation import connect
from tests.support.schedule_sql import forget_kicks, paste

PURPOSE = "from an order to its first call to Gemini, with the kick; about half a minute"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument(
        "--times", type=whole(1), default=40, help="orders, one after the other (default: 40)"
    )
    parser.add_argument("--brief", action="store_true", help="ten orders")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Order repeatedly while nothing runs; the last line is JSON with the median in seconds."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Stack(Path(folder), durable=False) as stack,
        Simulator() as gemini,
        connect(stack.db_url) as db,
        clocked(stack, gemini, db) as site,
    ):
        print(hardware(stack.postgres), flush=True)
        db.execute("select set_generation_rate('gemini-2.5-flash-image', 100000, 1000)")
        paste(db, "kick.sql")
        taken = [
            _once(site, f"order-{number}") for number in range(11 if options.brief else options.times + 1)
        ]
    counted = taken[1:]  # the first one opens the instance's connections
    print(f"order to first call: median {spread(counted)} s, {len(counted)} orders")
    print(json.dumps({"median_seconds": round(statistics.median(counted), 3)}), flush=True)


def _once(site: Clocked, name: str) -> float:
    """Seconds from sending an order, before its commit, to the arrival of its call at Gemini."""
    user = site.customer()
    forget_kicks(site.db)
    began = time.monotonic()
    job = site.enqueue(user, name)
    wait_for(lambda: site.is_completed(job), 60)
    wait_for(site.is_quiet, 60)
    return _call(site, name).started - began


def _call(site: Clocked, name: str) -> Call:
    (call,) = [call for call in site.gemini.ledger.calls if f"[{name}]" in call.prompt_start]
    return call
