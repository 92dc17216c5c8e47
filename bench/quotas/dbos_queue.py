"""DBOS under the same quota: its queue with a limiter, in a database of its own, if it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import psycopg

from bench.harness.site import IMAGES_PER_JOB, WORKERS, Site
from bench.quotas.first_photos import USERS, WAIT_SECONDS
from bench.quotas.peers import Peer
from bench.quotas.rates import UNKNOWN_FACTOR, USER
from local.demo.environment import kept, simulated_gemini
from local.demo.simulation import ROOT
from local.stack.errors import StackError
from local.stack.processes import Process

MARGIN = 1 / 60
"""What its period is longer than the window, since its starts reach Gemini a little late."""

BEHIND_WINDOWS = 1.5
"""After how many windows of the long queue the users come, as in `fairness`."""


@dataclass(frozen=True, slots=True)
class Dbos:
    """What became of the quota in each case, and the median seconds until a user's first photo."""

    shares: dict[str, Peer]
    empty_seconds: float
    behind_seconds: float


def dbos(site: Site, windows: int, queued: int) -> Dbos | None:
    """All cases, one after the other, each for so many windows; None where DBOS is not installed."""
    if not importlib.util.find_spec("dbos"):
        return None
    os.environ.update(simulated_gemini(site.simulator.url))
    right, halved = _right_then_halved(site, windows)
    shares = {"right": right, "halved": halved, "too_high": _too_high(site, windows)}
    return Dbos(shares, *_first_photos(site, queued))


def _right_then_halved(site: Site, windows: int) -> tuple[Peer, Peer]:
    """The quota with its margin; then the quota halves, of which nobody tells the queue."""
    rate, window = site.scale.rate, site.scale.window_seconds
    with _Queue(site, "dbos_right", rate).working() as queue:
        queue.enqueue([USER] * rate * (2 * windows + 4))
        begin = site.wait_for_calls() + window
        end = begin + windows * window
        _sleep_until(end)
        site.set_quota(rate // 2)
        _sleep_until(end + (windows + 1) * window)
        right = _peer("limit and margin right", site, rate, begin, end)
        return right, _peer("quota halves", site, rate // 2, end + window, end + (windows + 1) * window)


def _too_high(site: Site, windows: int) -> Peer:
    rate, window = site.scale.rate, site.scale.window_seconds
    with _Queue(site, "dbos_too_high", rate * UNKNOWN_FACTOR).working() as queue:
        queue.enqueue([USER] * rate * (windows + 2) * 2)
        begin = site.wait_for_calls() + window
        _sleep_until(begin + windows * window)
        told = f"limit {UNKNOWN_FACTOR} × the quota"
        return _peer(told, site, rate, begin, begin + windows * window)


def _first_photos(site: Site, queued: int) -> tuple[float, float]:
    """Of ten users with a few images each: in an empty queue, and behind one user's many."""
    with _Queue(site, "dbos_fair", site.scale.rate).working() as queue:
        empty = queue.first_photos()
        time.sleep(site.scale.window_seconds)
        queue.enqueue([USER] * queued)
        time.sleep(BEHIND_WINDOWS * site.scale.window_seconds)
        return median(empty), median(queue.first_photos())


def _peer(name: str, site: Site, rate: int, begin: float, end: float) -> Peer:
    starts, window = site.starts(), site.scale.window_seconds
    return Peer(name, starts.used(rate, window, begin, end), starts.between(begin, end).share_429)


class _Queue:
    """Its queue in a new database, with WORKERS processes, and a quota that nothing has used yet."""

    def __init__(self, site: Site, name: str, limit: int) -> None:
        site.begin(site.scale.rate, site.scale.rate)
        site.stack.psql(f"create database {name}")
        self._site, self._limit = site, limit
        self._url = f"{site.stack.postgres.db_url.rpartition('/')[0]}/{name}"
        self._client: Any = None

    @contextmanager
    def working(self) -> Iterator[_Queue]:
        """All processes work within it; the first makes the tables."""
        from dbos import DBOSClient

        started: list[Process] = []
        try:
            for number in range(WORKERS):
                started.append(self._process(f"dbos-{number}"))
                self._wait_for("select from dbos.queues where name = 'photos'", 1)
            self._client = DBOSClient(system_database_url=self._url)
            yield self
        finally:
            if self._client:
                self._client.destroy()
            for process in started:
                process.stop(signal.SIGKILL)

    def enqueue(self, users: Sequence[str]) -> None:
        """Enqueues an image for each, in this order."""
        for user in users:
            options = {"queue_name": "photos", "workflow_name": "make_photo", "queue_partition_key": user}
            self._client.enqueue(options, user)

    def first_photos(self) -> list[float]:
        """Enqueues a job's images for each user, and waits for the first of each; seconds that took."""
        (after,) = self._rows("select coalesce(max(created_at), 0) from dbos.workflow_status")
        self.enqueue([user for user in USERS for _ in range(IMAGES_PER_JOB)])
        query = f"""
          select (min(updated_at) filter (where status = 'SUCCESS') - min(created_at)) / 1000.0
          from dbos.workflow_status where queue_partition_key <> '{USER}' and created_at > {after[0]}
          group by queue_partition_key having count(*) filter (where status = 'SUCCESS') > 0"""
        return [float(row[0]) for row in self._wait_for(query, len(USERS))]

    def _process(self, name: str) -> Process:
        told = {
            "database": self._url,
            "executor": name,
            "limit": self._limit,
            "period": self._site.scale.window_seconds * (1 + MARGIN),
            "factor": self._site.scale.factor,
        }
        command = [sys.executable, "-m", "bench.quotas.dbos_worker", json.dumps(told)]
        env = {**kept(), **simulated_gemini(self._site.simulator.url), "PYTHONPATH": str(ROOT)}
        return Process(name, command, self._site.stack.postgres.folder, last_signal=signal.SIGKILL, env=env)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def _wait_for(self, query: str, count: int) -> list[tuple[Any, ...]]:
        """The rows of a query, once there are so many."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            try:
                rows = self._rows(query)
            except psycopg.errors.UndefinedTable:
                rows = []
            if len(rows) >= count:
                return rows
            time.sleep(0.2)
        raise StackError(f"DBOS was not ready after {WAIT_SECONDS:g} s.", "See the logs of its processes.")


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.monotonic(), 0))
