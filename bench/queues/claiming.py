"""A worker's claims and settles in plain SQL, on a queue filled with any number of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from local.stack.errors import StackError
from tests.support.databases import Database
from tests.support.queue_sql import Connection

MODEL = "gemini-2.5-flash-image"
RUN_SECONDS = 240
BATCHES = """
    insert into photo_generation_batches (id, "userId", "jobsTotal", "imagesTotal")
    select 'bench-' || i, 'user-' || i % 1000, 1000, 4000 from generate_series(0, 100000) as i"""

QUEUED = """
    insert into photo_generation_queue ("batchId", "userId", "exampleImageUrl", "basePrompt", "startTag",
      status, "retryAt", "completedAt", claims)
    select 'bench-' || i / 10, 'user-' || i / 10 %% 1000, 'https://photos.example.com/' || i,
      repeat('A portrait. ', 20), i, %(status)s, %(retry)s, %(ended)s, 0
    from generate_series(1, %(rows)s) as i"""


def install(scratch: Database) -> None:
    """Install the queue, with an open gate and batches for a million jobs, ten in each."""
    scratch.install()
    db = scratch.connection
    db.execute("set statement_timeout = 0")
    db.execute("select set_generation_rate(%s, 100000, 1000)", [MODEL])
    db.execute("select set_generation_limits('{\"maxRuns\": 1000}')")
    db.execute(BATCHES)


def fill(db: Connection, rows: int, status: str = "pending", retry: str | None = None) -> None:
    """Insert this many jobs, each with its place in the order, so that no trigger computes it."""
    ended = "2026-01-01" if status == "completed" else None
    db.execute(QUEUED.encode(), {"status": status, "retry": retry, "ended": ended, "rows": rows})


class Run:
    """A worker's run, as the database sees it."""

    def __init__(self, db: Connection) -> None:
        self._db, self._id = db, uuid4()

    def claim(self, jobs: int) -> Mapping[str, Any]:
        """The answer to a claim of at most so many jobs."""
        parameters = [self._id, "bench", uuid4(), jobs, RUN_SECONDS, MODEL]
        row = self._db.execute("select claim_generation_jobs(%s, %s, %s, %s, %s, %s) as a", parameters)
        answer: Mapping[str, Any] = (row.fetchone() or {})["a"]
        return answer

    def settle(self, answer: Mapping[str, Any]) -> None:
        """Settle the claimed jobs as failed, since no photo was made; batches count them like any end."""
        ends = {"fence": answer["fence"], "outcome": "failed", "code": "bench", "message": "It was a bench."}
        results = json.dumps([{"jobId": job["id"], **ends} for job in answer["jobs"]])
        self._db.execute("select settle_generation_jobs(%s::jsonb)", [results]).fetchone()

    def record(self, job: Mapping[str, Any], index: int) -> None:
        """Record an image of a claimed job as made; `StackError` if it is not wanted."""
        path = f"{job['userFolder']}/{job['batchId']}/{job['id']}/{index}-bench"
        size = {"width": 1024, "height": 1024, "bytes": 1_000_000}
        photo = {"storagePath": path, "mimeType": "image/png", "model": MODEL, "generationMs": 4000, **size}
        parameters = [job["id"], index, json.dumps(photo)]
        row = self._db.execute("select record_generated_photo(%s, %s, %s::jsonb) as a", parameters)
        answer = (row.fetchone() or {})["a"]
        if answer["result"] != "recorded":
            raise StackError("An image was not recorded.", "Its answer says why.", str(answer))

    def finish(self) -> None:
        """Finish the run; it holds no jobs."""
        self._db.execute("select finish_generation_run(%s, 'bench', '{}')", [self._id]).fetchone()
