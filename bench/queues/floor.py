"""Claims and settles per second on eight connections, compared with the simplest possible queue.

The floor is a table with an index and `for update skip locked`: no fence, no batches, no fairness, no gate,
no crash detection. The same two statements on our own table show what its indexes and constraints cost. All
are measured in turns, so that noise affects all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, LiteralString

from bench.queues import other_queues
from bench.queues.claiming import Run, fill, install
from local.stack.errors import StackError
from local.stack.postgres import Postgres
from tests.support.databases import database
from tests.support.installation import connect

CONNECTIONS, JOBS = 8, 10
Work = Callable[[str, float], int]
"""Processes jobs on one connection until a time; returns how many."""

CLAIMS = 24
"""Jobs of one run; finishing it is measured too. A run of four minutes has a job every ten seconds."""

SLICES = 5
FLOOR = """
    create table floor_queue (
      id bigint primary key, status text not null default 'pending', payload text not null, at timestamptz);
    create index on floor_queue (id) where status = 'pending';
    insert into floor_queue (id, payload)
    select i, repeat('A portrait. ', 20) from generate_series(1, {rows}) as i;
    analyze floor_queue"""
TAKE = """
    update floor_queue set status = 'processing', at = now() where id in (
      select id from floor_queue where status = 'pending' order by id limit 10 for update skip locked)
    returning id, payload"""
END = "update floor_queue set status = 'done', at = now() where id = any(%s)"
BARE_TAKE = """
    update photo_generation_queue set status = 'processing', "lockedBy" = 'bare', "lockedAt" = now(),
      "leaseExpiresAt" = now() + interval '5 minutes' where id in (
      select id from photo_generation_queue where status = 'pending' and "retryAt" is null
      order by priority desc, "startTag", id limit 10 for update skip locked)
    returning *"""
BARE_END = """
    update photo_generation_queue set status = 'completed', "completedAt" = now(),
      "lockedBy" = null, "lockedAt" = null, "leaseExpiresAt" = null where id = any(%s)"""


@dataclass(frozen=True, slots=True)
class Pace:
    """Jobs per second: ours, the floor, the floor's statements on our table, other queues."""

    ours: float
    floor: float
    bare: float
    peers: dict[str, float]

    def __str__(self) -> str:
        others = {"as bare on our table": self.bare, **self.peers}
        told = "".join(f", {name} {self._beside(pace)}" for name, pace in others.items())
        return f"{self._beside(self.ours)}, the floor {self.floor:.0f} jobs/s{told}"

    def figures(self) -> dict[str, Any]:
        """The rates of ours, the bare statements and the other queues ÷ the floor's."""
        return {
            "floor_ratio": round(self.ours / self.floor, 3),
            "bare_ratio": round(self.bare / self.floor, 3),
            "peers": {name: round(pace / self.floor, 3) for name, pace in self.peers.items()},
            "jobs_per_second": round(self.ours),
        }

    def _beside(self, pace: float) -> str:
        return f"{pace:.0f} jobs/s (÷ floor {pace / self.floor:.2f})"


def measure_floor(postgres: Postgres, brief: bool) -> Pace:
    """Fill a database for ours and the floor, and one for each other queue; prints and returns the rates."""
    seconds, rows = (1.0, 200_000) if brief else (3.0, 600_000)
    with ExitStack() as running:
        scratch = running.enter_context(database(postgres))
        install(scratch)
        fill(scratch.connection, rows)
        scratch.connection.execute(FLOOR.format(rows=rows).encode())
        scratch.connection.execute("vacuum analyze")
        works: dict[str, tuple[str, Work]] = {
            "ours": (scratch.url, _ours),
            "floor": (scratch.url, _floor),
            "bare": (scratch.url, _bare),
        }
        for peer in other_queues.installed():
            other = running.enter_context(database(postgres))
            other.connection.execute("set statement_timeout = 0")
            peer.fill(other.connection, rows // 2)
            other.connection.execute("vacuum analyze")
            works[peer.name] = (other.url, peer.work)
        paces = dict.fromkeys(works, 0.0)
        for _ in range(SLICES):
            for name, (url, work) in works.items():
                paces[name] += _pace(url, seconds, work) / SLICES
    pace = Pace(paces.pop("ours"), paces.pop("floor"), paces.pop("bare"), paces)
    print(f"{CONNECTIONS} connections × {JOBS} jobs: {pace}", flush=True)
    return pace


def _pace(url: str, seconds: float, work: Work) -> float:
    """Jobs per second with this many connections."""
    done: list[int] = []
    began = time.perf_counter()
    until = began + seconds
    threads = [threading.Thread(target=lambda: done.append(work(url, until))) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(done) < CONNECTIONS:
        raise StackError("A connection failed.", "Above is why.")
    return sum(done) / (time.perf_counter() - began)


def _ours(url: str, until: float) -> int:
    jobs = 0
    with connect(url) as db:
        while time.perf_counter() < until:
            run = Run(db)
            for _ in range(CLAIMS):
                jobs += _claim_and_settle(run)
            run.finish()
    return jobs


def _claim_and_settle(run: Run) -> int:
    answer = run.claim(JOBS)
    if answer["jobs"]:
        run.settle(answer)
    elif answer["reason"] != "busy":
        raise RuntimeError(f"nothing claimed: {answer}")
    return len(answer["jobs"])


def _floor(url: str, until: float) -> int:
    return _take_and_end(url, until, TAKE, END)


def _bare(url: str, until: float) -> int:
    return _take_and_end(url, until, BARE_TAKE, BARE_END)


def _take_and_end(url: str, until: float, take: LiteralString, end: LiteralString) -> int:
    jobs = 0
    with connect(url) as db:
        while time.perf_counter() < until:
            ids = [row["id"] for row in db.execute(take).fetchall()]
            if not ids:
                raise RuntimeError("the floor ran dry")
            db.execute(end, [ids])
            jobs += len(ids)
    return jobs
