"""Other PostgreSQL queues with their own statements, to compare their claims and settles with ours.

They are measured if they are installed, since nothing else needs them; the others are named.
None has our batches, fairness or gate; procrastinate claims and settles jobs one by one.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from psycopg import RawCursor
from psycopg.rows import dict_row

from tests.support.installation import connect
from tests.support.queue_sql import Connection

JOBS = 10
PAYLOAD = "A portrait. " * 20


@dataclass(frozen=True, slots=True)
class Peer:
    """A queue: fills an empty database with jobs, and processes them on one connection until a time."""

    name: str
    fill: Callable[[Connection, int], None]
    work: Callable[[str, float], int]


def installed() -> Iterator[Peer]:
    """The installed queues; prints which ones are missing, and how to install them."""
    for name, make in {"pgqueuer": _pgqueuer, "procrastinate": _procrastinate}.items():
        if importlib.util.find_spec(name):
            yield make()
        else:
            print(f"{name} is not installed: `pip install -r bench/queues.txt` shows it too", flush=True)


def _pgqueuer() -> Peer:
    from pgqueuer.adapters.persistence.qb import DBSettings, QueryQueueBuilder
    from pgqueuer.adapters.persistence.schema_ddl import render_install

    builder = QueryQueueBuilder(DBSettings())
    dequeue = builder.build_dequeue_query(
        batch_size=JOBS,
        entrypoints=["photo"],
        concurrency_limits=[0],
        queue_manager_id=uuid4(),
        global_concurrency_limit=None,
        heartbeat_timeout=timedelta(minutes=5),
    )

    def fill(db: Connection, rows: int) -> None:
        db.execute(render_install(DBSettings()).encode())
        some = 10_000
        none = [None] * some
        for _ in range(rows // some):
            columns = (
                [0] * some,
                ["photo"] * some,
                [PAYLOAD.encode()] * some,
                [timedelta()] * some,
                none,
                none,
            )
            RawCursor(db).execute(builder.build_enqueue_query(), columns)

    def work(url: str, until: float) -> int:
        jobs = 0
        with connect(url) as db:
            cursor = RawCursor(db, row_factory=dict_row)
            while time.perf_counter() < until:
                ids = [row["id"] for row in cursor.execute(dequeue.sql, dequeue.args).fetchall()]
                if not ids:
                    raise RuntimeError("pgqueuer ran dry")
                cursor.execute(
                    builder.build_log_job_query(), (ids, ["successful"] * len(ids), [None] * len(ids))
                )
                jobs += len(ids)
        return jobs

    return Peer("pgqueuer", fill, work)


def _procrastinate() -> Peer:
    from procrastinate.schema import SchemaManager
    from procrastinate.sql import queries

    def fill(db: Connection, rows: int) -> None:
        db.execute(SchemaManager.get_schema().encode())
        db.execute(
            "insert into procrastinate_jobs (queue_name, task_name, args)"
            " select 'photos', 'photo', jsonb_build_object('p', %s::text) from generate_series(1, %s)",
            [PAYLOAD, rows],
        )

    def work(url: str, until: float) -> int:
        jobs = 0
        with connect(url) as db:
            worker = _one(db, queries["register_worker"], {})["worker_id"]
            while time.perf_counter() < until:
                job = _one(db, queries["fetch_job"], {"queues": None, "worker_id": worker})
                db.execute(
                    queries["finish_job"].encode(),
                    {"job_id": job["id"], "status": "succeeded", "delete_job": False},
                )
                jobs += 1
        return jobs

    return Peer("procrastinate", fill, work)


def _one(db: Connection, query: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return db.execute(query.encode(), parameters).fetchone() or {}
