"""A hundred workers at one gate: the cost of its calls, the use of the quota, and who gets the starts.

The gate is the real one, in PostgreSQL behind a pool of as many connections as an API has; each worker is
the product's own rate limiter with ten waiting images. Calls to Gemini are replaced by a sleep.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import statistics
import tempfile
import time
from argparse import ArgumentParser, Namespace
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from bench.harness.bounds import above, whole
from bench.harness.figures import hardware
from bench.harness.ledger import Starts
from local.stack.postgres import Postgres
from tests.support.databases import Database, database
from worker.common.deadline import Deadline, Within
from worker.run.deadlines import Deadlines
from worker.run.outcome import NotStarted
from worker.run.rate_limiter import RateLimiter
from worker.run.stop import Stop

PURPOSE = "the gate asked by 10, 100 and more workers at once; about two minutes"
CROWDS = (10, 100, 300)
HANDS = 10
POOL = 15
WINDOW_SECONDS = 6.0
CALL_SECONDS = 5.0 * WINDOW_SECONDS / 60
LEAST_RATE = round(60 / WINDOW_SECONDS)
"""Starts per minute; each window then has at least one."""

MODEL = "model"
QUESTION = "%(p_run_id)s, %(p_model)s, %(p_slots)s, %(p_within_seconds)s, %(p_users)s"
Pool = asyncio.Queue[psycopg.AsyncConnection[dict[str, Any]]]


@dataclass(slots=True)
class Counter:
    """What all workers saw: each start's time and run (`by_run` has every run), and the duration of each call
    to the gate, including the wait for a connection."""

    by_run: dict[UUID, int]
    began: float = 0.0
    starts: list[float] = field(default_factory=list)
    questions: list[float] = field(default_factory=list)


class PooledGate:
    """The database as a run's rate limiter calls it, over the next free connection of the pool."""

    def __init__(self, pool: Pool, counter: Counter) -> None:
        self._pool, self._counter = pool, counter

    async def rpc(
        self, function: str, params: Mapping[str, Any], within: Within = 30.0, tries: int = 4
    ) -> dict[str, Any]:
        """Take up to this many starts; no other function is called, since no request gets a 429."""
        began = time.monotonic()
        connection = await self._pool.get()
        try:
            found = await connection.execute(
                f"select take_start_slots({QUESTION}) as a".encode(),
                {**params, "p_users": Jsonb(params["p_users"])},
            )
            answer: dict[str, Any] = (await found.fetchone() or {})["a"]
        finally:
            self._pool.put_nowait(connection)
        self._counter.questions.append(time.monotonic() - began)
        return answer


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument(
        "--rate", type=whole(LEAST_RATE, 100_000), default=6000, help="starts a minute (default: 6000)"
    )
    parser.add_argument(
        "--seconds", type=above(WINDOW_SECONDS), default=30.0, help="of each crowd (default: 30)"
    )
    parser.add_argument("--brief", action="store_true", help="12 seconds of each")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Print a line for each number of workers; the last line is JSON by that number."""
    seconds = 12.0 if options.brief else options.seconds
    figures = {}
    with ExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        postgres = running.enter_context(Postgres(Path(folder)))
        print(hardware(postgres), flush=True)
        print(f"{options.rate} starts a minute, {HANDS} images in hand each, {POOL} connections", flush=True)
        for workers in CROWDS:
            scratch = running.enter_context(database(postgres))
            per_window = round(options.rate * WINDOW_SECONDS / 60)
            runs = [uuid4() for _ in range(workers)]
            _open(scratch, per_window, runs)
            counter = asyncio.run(_crowd(scratch.url, runs, seconds))
            figures[str(workers)] = _told(counter, seconds, per_window)
    print(json.dumps(figures), flush=True)


def _open(scratch: Database, per_window: int, runs: list[UUID]) -> None:
    """Set the gate's rate, with its window and grace scaled down, and create the runs that may call it."""
    scratch.install()
    parameters = [MODEL, per_window, WINDOW_SECONDS, WINDOW_SECONDS / 60]
    scratch.connection.execute("select set_generation_rate(%s, %s, null, %s, %s)", parameters)
    scratch.connection.execute("select set_generation_limits('{\"dollarsPerDay\": null}')")
    scratch.connection.execute(
        """insert into generation.runs (id, "workerId", "startedAt", "endsBy")
        select id, 'crowd', now(), now() + interval '1 hour' from unnest(%s::uuid[]) as id""",
        [runs],
    )


async def _crowd(url: str, runs: list[UUID], seconds: float) -> Counter:
    """Run all workers at once, each with its waiting images, until the time is up."""
    counter, pool = Counter(dict.fromkeys(runs, 0)), Pool()
    for _ in range(POOL):
        pool.put_nowait(await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row))
    counter.began = time.monotonic()
    until = Deadline(counter.began + seconds, time.monotonic)
    gate = PooledGate(pool, counter)
    await asyncio.gather(*(_worker(gate, run, counter, until) for run in runs))
    while not pool.empty():
        await pool.get_nowait().close()
    return counter


async def _worker(gate: PooledGate, run: UUID, counter: Counter, until: Deadline) -> None:
    """Ten images at a time: each takes a start from the gate, then sleeps for the time of a call."""
    deadlines = Deadlines(240, 20, time.monotonic)
    limiter = RateLimiter(gate, run, MODEL, HANDS, deadlines, Stop(), time.monotonic)
    never = asyncio.Event()

    async def image() -> None:
        with suppress(NotStarted):
            while True:
                async with limiter.start("user", until, never):
                    counter.starts.append(time.monotonic())
                    counter.by_run[run] += 1
                    await asyncio.sleep(random.lognormvariate(math.log(CALL_SECONDS), 0.3))

    await asyncio.gather(*(image() for _ in range(HANDS)))


def _told(counter: Counter, seconds: float, per_window: int) -> dict[str, float]:
    """Print and return the figures; the first window, in which the gate fills, does not count."""
    begin = counter.began + WINDOW_SECONDS
    starts = Starts(tuple(sorted(counter.starts)), ())
    used = starts.used(per_window, WINDOW_SECONDS, begin, counter.began + seconds)
    most = max(_in_window(starts.admitted, at) for at in starts.admitted) / per_window
    asked = sorted(counter.questions)
    median, p95 = statistics.median(asked) * 1000, asked[len(asked) * 95 // 100] * 1000
    fewest, average = min(counter.by_run.values()), statistics.mean(counter.by_run.values())
    print(
        f"{len(counter.by_run):>4} workers: used {used:.1%}, fullest window {most:.1%}; "
        f"{len(asked) / len(starts.admitted):.2f} questions a start, {len(asked) / seconds:.0f} a second, "
        f"{median:.1f} ms each (p95 {p95:.1f}); fewest starts of a worker {fewest}, mean {average:.0f}",
        flush=True,
    )
    return {
        "used": round(used, 4),
        "fullest": round(most, 4),
        "questions_per_start": round(len(asked) / len(starts.admitted), 3),
        "question_ms": round(median, 2),
    }


def _in_window(starts: tuple[float, ...], begin: float) -> int:
    return bisect_left(starts, begin + WINDOW_SECONDS) - bisect_left(starts, begin)
