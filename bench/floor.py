"""The pace of claim and settle on eight connections, beside the barest queue there is on the same server.

The floor is a table with an index and `for update skip locked`: no fence, no batches, no fairness, no gate,
no crash that is noticed. Both take turns in slices, so that noise meets both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bench.claiming import Run, fill, install
from tests.conftest import connect
from tests.databases import Database

CONNECTIONS, JOBS = 8, 10
CLAIMS = 24
"""Of each run, which is then finished, and that counts too: one every ten seconds for four minutes."""

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


def measure_floor(scratch: Database, brief: bool) -> tuple[float, float]:
    """Jobs per second: ours, and the floor's."""
    seconds, rows = (1.0, 200_000) if brief else (3.0, 600_000)
    install(scratch)
    fill(scratch.connection, rows // 4)
    scratch.connection.execute(FLOOR.format(rows=rows).encode())
    scratch.connection.execute("vacuum analyze photo_generation_queue")
    ours = floor = 0.0
    for _ in range(SLICES):
        ours += _pace(scratch.url, seconds, _ours) / SLICES
        floor += _pace(scratch.url, seconds, _floor) / SLICES
    print(f"{CONNECTIONS} connections × {JOBS} jobs: {ours:.0f} jobs/s, the floor {floor:.0f}", flush=True)
    return ours, floor


def _pace(url: str, seconds: float, work: Callable[[str, float], int]) -> float:
    """Jobs per second of so many connections at once."""
    done: list[int] = []
    began = time.perf_counter()
    until = began + seconds
    threads = [threading.Thread(target=lambda: done.append(work(url, until))) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(done) < CONNECTIONS:
        raise RuntimeError("a connection failed")
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
    jobs = 0
    with connect(url) as db:
        while time.perf_counter() < until:
            ids = [row["id"] for row in db.execute(TAKE).fetchall()]
            if not ids:
                raise RuntimeError("the floor ran dry")
            db.execute(END, [ids])
            jobs += len(ids)
    return jobs
