"""How long a claim and a settle take with full tables, and their throughput compared with a bare queue.

Plain SQL, without an API: one database per scenario, measured in turns, so that other load on the machine
affects all of them equally.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.bounds import whole
from bench.harness.figures import hardware
from bench.queues.claiming import Run, fill, install
from bench.queues.floor import measure_floor
from local.stack.errors import StackError
from local.stack.postgres import Postgres
from tests.support.databases import Database, database
from tests.support.queue_sql import Connection

PURPOSE = "claims and settles with a million jobs due, ended, or not due yet; about six minutes"
JOBS = 10
LEAST = 2000
"""Due jobs left in every scenario at the end; the reference has no other jobs."""

RECORDS = 200
"""How many records of images are measured, in the reference."""

COLD = 10
"""First claims of each scenario that do not count, because their plans and pages are not cached yet."""

JOB_BYTES = """
    select pg_total_relation_size('photo_generation_queue')::float8 / count(*) as bytes
    from photo_generation_queue"""


@dataclass(slots=True)
class Scenario:
    """A database with this many rows besides the due ones, and its measurements, in milliseconds."""

    name: str
    rows: int = 0
    status: str = "pending"
    retry: str | None = None
    drained: int = 0
    claims: list[float] = field(default_factory=list)
    settles: list[float] = field(default_factory=list)

    def prepare(self, scratch: Database, claimed: int) -> None:
        """Insert the rows and process some as workers would; `claimed` more will be claimed."""
        install(scratch)
        db = scratch.connection
        if self.rows:
            fill(db, self.rows, self.status, self.retry)
        fill(db, LEAST + claimed + self.drained)
        db.execute("vacuum analyze")
        run = Run(db)
        for _ in range(self.drained // 100):
            run.settle(run.claim(100))

    def measure(self, db: Connection) -> None:
        """Claim ten jobs and settle them. `StackError` if the claim gave anything else."""
        run = Run(db)
        began = time.perf_counter()
        answer = run.claim(JOBS)
        claimed = time.perf_counter()
        if len(answer["jobs"]) != JOBS:
            raise StackError(
                f"{self.name}: a claim did not give {JOBS} jobs.", "Its answer says why.", str(answer)
            )
        asked = time.perf_counter()
        run.settle(answer)
        self.claims.append((claimed - began) * 1000)
        self.settles.append((time.perf_counter() - asked) * 1000)
        run.finish()  # a worker's run ends; two hundred at once would all be counted by each claim

    def ratio(self, reference: Scenario) -> float:
        """The higher of two ratios to the reference: the median claim's and the median settle's."""
        claims = statistics.median(self.claims[COLD:]) / statistics.median(reference.claims[COLD:])
        settles = statistics.median(self.settles[COLD:]) / statistics.median(reference.settles[COLD:])
        return max(claims, settles)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument(
        "--times", type=whole(COLD + 1, 10_000), default=200, help="claims in each scenario (default: 200)"
    )
    parser.add_argument("--brief", action="store_true", help="a tenth of the rows, fifty claims")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Fill the databases, measure them in turns, print medians with p10 and p90; the last line is JSON.

    Its `rows` is the number that "million" in a name stands for; each ratio is `Scenario.ratio`.
    """
    million, times = (100_000, 50) if options.brief else (1_000_000, options.times)
    scenarios = _scenarios(million)
    with ExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        postgres = running.enter_context(Postgres(Path(folder), durable=False))
        _say(hardware(postgres))
        opened: dict[str, Connection] = {}
        for key, scenario in scenarios.items():
            scratch = running.enter_context(database(postgres))
            scenario.prepare(scratch, times * JOBS)
            opened[key] = scratch.connection
        job_bytes = round((opened["finished_1m"].execute(JOB_BYTES).fetchone() or {})["bytes"])
        for _ in range(times):
            for key, scenario in scenarios.items():
                scenario.measure(opened[key])
        for scenario in scenarios.values():
            pair = f"claim {_spread(scenario.claims)}   settle {_spread(scenario.settles)}"
            _say(f"{scenario.name:<24} {pair}")
        records = _records(opened["reference"])
        _say(f"{'record of an image':<24}       {_spread(records)}")
        _say(f"a finished job takes {job_bytes} bytes on disk, its indexes included")
        pace = measure_floor(postgres, options.brief)
    reference = scenarios.pop("reference")
    figures = {f"ratio_{key}": round(scenario.ratio(reference), 3) for key, scenario in scenarios.items()}
    sizes = {
        "rows": million,
        "job_bytes": job_bytes,
        "record_ms": round(statistics.median(records[COLD:]), 3),
    }
    _say(json.dumps(figures | sizes | pace.figures()))


def _scenarios(million: int) -> dict[str, Scenario]:
    return {
        "reference": Scenario(f"nothing but {LEAST} due"),
        "due_100k": Scenario(f"{million // 10} due", million // 10),
        "due_1m": Scenario(f"{million} due", million),
        "finished_1m": Scenario(f"{million} finished", million, "completed"),
        "future_1m": Scenario(f"{million} not due yet", million, retry="2999-01-01"),
        "after_drain": Scenario(f"{million // 10} drained before", drained=million // 10),
    }


def _records(db: Connection) -> list[float]:
    """Milliseconds of each record of an image, in sequence; the first COLD do not count."""
    run, taken = Run(db), list[float]()
    while len(taken) < RECORDS + COLD:
        for job in run.claim(JOBS)["jobs"]:
            for index in job["missing"]:
                began = time.perf_counter()
                run.record(job, index)
                taken.append((time.perf_counter() - began) * 1000)
    return taken


def _spread(values: list[float]) -> str:
    ordered = sorted(values[COLD:])
    tenth = len(ordered) // 10
    return f"{statistics.median(ordered):5.1f} ms ({ordered[tenth]:.1f} – {ordered[-tenth - 1]:.1f})"


def _say(line: str) -> None:
    print(line, flush=True)
