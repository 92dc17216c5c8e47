"""How long a claim and a settle take, whatever lies in the tables, and their pace beside a bare queue's.

Straight SQL, without an API between: one database for each scenario, asked in turn, so that whatever else
the machine does meets all of them.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.claiming import Run, fill, install
from bench.floor import measure_floor
from local.stack.postgres import Postgres
from tests.databases import Database, database
from tests.queue_sql import Connection

PURPOSE = "claims and settles with a million jobs due, ended, or not due yet; about six minutes"
JOBS = 10
LEAST = 20_000
"""Due jobs in every scenario, so that none runs dry; the reference has no others."""

COLD = 10
"""Claims of each scenario that do not count: their plans are not made and their pages not read yet."""


@dataclass(slots=True)
class Scenario:
    """A database with so many rows beside the due ones, and what was measured in it, in milliseconds."""

    name: str
    rows: int = 0
    status: str = "pending"
    retry: str | None = None
    drained: int = 0
    claims: list[float] = field(default_factory=list)
    settles: list[float] = field(default_factory=list)

    def prepare(self, scratch: Database) -> None:
        """Put the rows in, and drain some as workers would."""
        install(scratch)
        db = scratch.connection
        if self.rows:
            fill(db, self.rows, self.status, self.retry)
        fill(db, LEAST + self.drained)
        db.execute("vacuum analyze")
        run = Run(db)
        for _ in range(self.drained // 100):
            run.settle(run.claim(100))

    def measure(self, db: Connection) -> None:
        """Claim ten jobs and settle them. RuntimeError if the claim gave anything else."""
        run = Run(db)
        began = time.perf_counter()
        answer = run.claim(JOBS)
        claimed = time.perf_counter()
        if len(answer["jobs"]) != JOBS:
            raise RuntimeError(f"not the claim that was to be measured: {answer}")
        asked = time.perf_counter()
        run.settle(answer)
        self.claims.append((claimed - began) * 1000)
        self.settles.append((time.perf_counter() - asked) * 1000)

    @property
    def both(self) -> float:
        """Claim and settle together, at the median."""
        pairs = zip(self.claims[COLD:], self.settles[COLD:], strict=True)
        return statistics.median(claim + settle for claim, settle in pairs)


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said on the command line."""
    parser.add_argument("--times", type=int, default=200, help="claims in each scenario (default: 200)")
    parser.add_argument("--brief", action="store_true", help="a tenth of the rows, fifty claims")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Fills, asks in turn, prints medians with p10 and p90; the last line is JSON with the ratios."""
    million, times = (100_000, 50) if options.brief else (1_000_000, options.times)
    scenarios = {
        "empty": Scenario("nothing else"),
        "due_100k": Scenario(f"{million // 10} due", million // 10),
        "due_1m": Scenario(f"{million} due", million),
        "finished_1m": Scenario(f"{million} finished", million, "completed"),
        "future_1m": Scenario(f"{million} not due yet", million, retry="2999-01-01"),
        "after_drain": Scenario(f"{million // 10} drained before", drained=million // 10),
    }
    with ExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        postgres = running.enter_context(Postgres(Path(folder), durable=False))
        version = postgres.psql("show server_version").strip()
        python = platform.python_version()
        _say(f"{os.cpu_count()} cores for everything · Python {python} · PostgreSQL {version}")
        opened: dict[str, Connection] = {}
        for key, scenario in scenarios.items():
            scratch = running.enter_context(database(postgres))
            scenario.prepare(scratch)
            opened[key] = scratch.connection
        for _ in range(times):
            for key, scenario in scenarios.items():
                scenario.measure(opened[key])
        for scenario in scenarios.values():
            pair = f"claim {_spread(scenario.claims)}   settle {_spread(scenario.settles)}"
            _say(f"{scenario.name:<24} {pair}")
        pace = measure_floor(postgres, options.brief)
    reference = scenarios.pop("empty").both
    figures = {f"ratio_{key}": round(scenario.both / reference, 3) for key, scenario in scenarios.items()}
    figures |= {
        "floor_ratio": round(pace.ours / pace.floor, 3),
        "bare_ratio": round(pace.ours / pace.bare, 3),
    }
    peers = {name: round(jobs) for name, jobs in pace.peers.items()}
    _say(json.dumps(figures | {"jobs_per_second": round(pace.ours), "peers": peers}))


def _spread(values: list[float]) -> str:
    ordered = sorted(values[COLD:])
    tenth = len(ordered) // 10
    return f"{statistics.median(ordered):5.1f} ms ({ordered[tenth]:.1f} – {ordered[-tenth - 1]:.1f})"


def _say(line: str) -> None:
    print(line, flush=True)
