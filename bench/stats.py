"""How long the numbers take with a long history: the database's function, and each endpoint."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import LiteralString

import psycopg

from bench.harness.bounds import whole
from bench.harness.scale import Scale
from bench.harness.site import Site
from local.demo.function import Function
from local.stack.supabase import DIRECT

PURPOSE = "the numbers with a million jobs and photos in the tables; about three minutes"
SECRET = "a-secret-of-the-bench-0123456789"
BATCHES = """
    insert into photo_generation_batches (id, "userId", status, "jobsTotal", "jobsDone", "completedAt")
    select 'bench-' || i, 'user-' || i % 1000, case when b.open then 'generating' else 'completed' end, 10,
      case when b.open then 0 else 10 end, case when not b.open then now() end
    from generate_series(0, {jobs} / 10) as i cross join lateral (select i <= {open} / 10 as open) as b"""
ORDERED = """
    'bench-' || i / 10, 'user-' || i / 10 % 1000, 'https://photos.example.com/' || i,
    repeat('A portrait. ', 20), i, 4"""
FINISHED = """
    insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt", "startTag",
      "numImagesPerExample", status, "errorCode", "errorMessage", "createdAt", "completedAt", claims,
      attempts)
    select {ordered},
      case when i % 50 = 0 then 'failed' else 'completed' end,
      case when i % 50 = 0 then 'photo_missing' end, case when i % 50 = 0 then 'The photo is gone.' end,
      now() - make_interval(secs => ({jobs} - i) * 0.4 + 30 + i % 300),
      now() - make_interval(secs => ({jobs} - i) * 0.4), 1, 1
    from generate_series(1, {jobs}) as i"""
PHOTOS = """
    insert into photo_generation_photos ("jobId", "batchId", "userId", "imageIndex", "storagePath",
      "mimeType", width, height, bytes, model, "generationMs", "createdAt")
    select {jobs} - ({jobs} - i) / 4, 'bench-' || i / 10, 'user-' || i / 10 % 1000, i % 4, 'user/bench/' || i,
      'image/png', 1024, 1024, 1000000,
      case when i % 2 = 0 then 'gemini-2.5-flash-image' else 'gemini-3.1-flash-image' end,
      3000 + i::bigint * 7919 % 9000, now() - make_interval(secs => ({jobs} - i) * 0.1)
    from generate_series(1, {jobs}) as i"""
UNFINISHED = """
    insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt", "startTag",
      "numImagesPerExample", status, "retryAt", "createdAt", claims, attempts)
    select {ordered}, case when i % 10 = 0 then 'rate_limited' else 'pending' end,
      case when i % 10 = 0 then now() + make_interval(secs => i - 2000) end,
      now() - make_interval(secs => i), i % 2, i % 2
    from generate_series(1, {open}) as i"""
NO_TRIGGERS = "set session_replication_role = replica"
TRIGGERS = "reset session_replication_role"
FILL = (NO_TRIGGERS, BATCHES, FINISHED, PHOTOS, UNFINISHED, TRIGGERS, "vacuum analyze")
"""Ten photos a second and a job every 0.4 s until now: 864 000 and 216 000 a day, 600 images a minute."""
COUNTED = "select count(*) from generation.counts where seconds = 60"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument(
        "--jobs", type=whole(10, 10_000_000), default=1_000_000, help="jobs that have ended, and photos"
    )
    parser.add_argument("--open", type=whole(10), default=5000, help="jobs that have not")
    parser.add_argument("--brief", action="store_true", help="a tenth of the jobs, asked ten times")
    parser.add_argument("--times", type=whole(1), default=40, help="how often each face is asked")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Fill the tables, call every endpoint, print p50 and p95; the last line is JSON with each p95."""
    if options.brief:
        options.jobs, options.open, options.times = options.jobs // 10, options.open // 10, 10
    with Site(Scale(60.0), ()) as site, psycopg.connect(site.stack.db_url, autocommit=True) as connection:
        _say(site.hardware())
        began = time.monotonic()
        for statement in FILL:
            connection.execute(
                statement.format(jobs=options.jobs, open=options.open, ordered=ORDERED).encode()
            )
        filled = time.monotonic() - began
        _say(f"{options.jobs} jobs and photos, {options.open} jobs to do; filled in {filled:.0f} s\n")
        (pid,) = connection.execute("select pg_backend_pid()").fetchone() or (0,)
        _count(connection)
        before = _processor_seconds(pid)
        stats = _timed("generation_queue_stats()", options.times,
            lambda: connection.execute("select generation_queue_stats()").fetchall())  # fmt: skip
        spent = (_processor_seconds(pid) - before) / (options.times + 1) * 1000
        _say(f"{'  of which processor':<28} mean {spent:5.1f} ms")
        figures = {"stats_ms": stats} | _faces(site, options.times)
    _say(json.dumps(figures))


def _count(connection: psycopg.Connection) -> None:
    """Asks until every minute of the day is counted: after an installation each answer counts two hours."""
    counted, times, began = -1, 0, time.monotonic()
    while counted != (counted := _number(connection, COUNTED)) or not counted:
        connection.execute("select generation_queue_stats()")
        times += 1
    connection.execute("analyze generation.counts")  # as autovacuum does within a minute
    _say(f"{'first count of the day':<28} {times} answers, {time.monotonic() - began:.1f} s")


def _number(connection: psycopg.Connection, query: LiteralString) -> int:
    (number,) = connection.execute(query).fetchone() or (0,)
    return int(number)


def _faces(site: Site, times: int) -> dict[str, float]:
    environment = site.environment() | {"OPERATOR_SECRET": SECRET}
    folder = site.stack.postgres.folder
    with Function("process_generation_queue", folder, environment) as served:
        return {
            f"{name}_ms": _timed(f"GET /{name}", times, lambda url=f"{served.url}/{name}": _get(url))  # type: ignore[misc]
            for name in ("status", "metrics", "overview")
        }


def _processor_seconds(pid: int) -> float:
    """The processor time of a process; unlike wall time, it is the same on a busy machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _get(url: str) -> None:
    request = urllib.request.Request(url, headers={"X-Operator-Secret": SECRET})
    with DIRECT.open(request, timeout=60) as answer:
        answer.read()


def _timed(what: str, times: int, ask: Callable[[], object]) -> float:
    """Call once without measuring, then this often; prints p50 and p95, and returns p95."""
    ask()
    taken = []
    for _ in range(times):
        began = time.monotonic()
        ask()
        taken.append((time.monotonic() - began) * 1000)
    taken.sort()
    p50, p95 = taken[len(taken) // 2], taken[len(taken) * 95 // 100]
    _say(f"{what:<28} p50 {p50:6.1f} ms   p95 {p95:6.1f} ms")
    return round(p95, 1)


def _say(line: str) -> None:
    print(line, flush=True)
