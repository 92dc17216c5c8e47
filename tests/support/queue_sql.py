"""The queue's functions as Python calls, and what the SQL tests share: a still clock, waits for locks."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString, TypeVar
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

Connection = psycopg.Connection[DictRow]
T = TypeVar("T")
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
USER = "user-1"
NO_LIMITS = {
    "imagesPerDay": None,
    "dollarsPerDay": None,
    "userImagesQueued": None,
    "userImagesPerDay": None,
    "userDollarsPerDay": None,
}
"""As many images as anybody likes: for tests that are about something else."""
ORDER_TABLES: tuple[LiteralString, ...] = (
    "photo_generation_batches",
    "photo_generation_queue",
    "generation.idempotency_keys",
    "generation.flows",
)


def order(user_id: str = USER, examples: int = 1, images: int = 1, **fields: object) -> dict[str, object]:
    """A valid request for `examples` jobs of `images` images; `fields` replace or add."""
    folder = f"training-photos/{user_id.replace('=', '=3D').replace('|', '=7C')}"
    return {
        "userId": user_id,
        "basePrompt": "A portrait in the evening sun",
        "numImagesPerExample": images,
        "exampleImages": [{"url": f"{folder}/{i}.jpg"} for i in range(examples)],
        "trainingImageUrls": [f"{folder}/me.jpg"],
        **fields,
    }


def _adapted(value: object) -> object:
    if isinstance(value, dict | list):
        return Jsonb(value)
    return Decimal(str(value)) if isinstance(value, float) else value


class Run:
    """One run of a worker: its claims and its end."""

    def __init__(self, queue: "Queue", worker: str = "worker") -> None:
        self.queue, self.worker, self.id = queue, worker, uuid4()

    def answer(self, max_jobs: int = 100, claim: UUID | None = None, **changes: object) -> Any:
        """The answer of `claim_generation_jobs`, without the time; `changes` replace parameters."""
        parameters: dict[str, object] = {
            "p_run_id": self.id,
            "p_worker_id": self.worker,
            "p_claim_id": claim or uuid4(),
            "p_max_jobs": max_jobs,
            "p_run_seconds": 240,
            "p_model": "model",
        }
        answer = self.queue.call("claim_generation_jobs", **(parameters | changes))
        assert datetime.fromisoformat(answer.pop("answeredAt")).tzinfo is not None
        return answer

    def claim(self, max_jobs: int = 100, claim: UUID | None = None) -> list[dict[str, Any]]:
        """The jobs a claim gives, each with its fence."""
        answer = self.answer(max_jobs, claim)
        return [job | {"fence": answer["fence"]} for job in answer["jobs"]]

    def finish(self, *spent: int, summary: Mapping[str, object] | None = None) -> int:
        """Ends the run; how many jobs that released."""
        answer = self.queue.call(
            "finish_generation_run",
            p_run_id=self.id,
            p_worker_id=self.worker,
            p_summary=dict(summary or {"stopReason": "budget"}),
            p_spent_jobs=list(spent),
        )
        return int(answer["released"])


class Queue:
    """The database functions on one connection, and its tables to look at."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def call(self, function: str, **parameters: object) -> Any:
        """The answer of one database function, called with named parameters."""
        named = [sql.SQL("{} => {}").format(sql.Identifier(p), sql.Placeholder(p)) for p in parameters]
        query = sql.SQL("select public.{}({}) as answer").format(
            sql.Identifier(function), sql.SQL(", ").join(named)
        )
        return self.one(query, {name: _adapted(value) for name, value in parameters.items()})["answer"]

    def one(self, query: Any, parameters: Any = None) -> DictRow:
        """The only row of a query."""
        rows = self.connection.execute(query, parameters).fetchall()
        assert len(rows) == 1, rows
        return rows[0]

    def open_gate(self) -> "Queue":
        """Lets the model of `run` start as much as it likes: the test is about something else."""
        self.call("set_generation_rate", p_model="model", p_rate=100_000, p_burst=1000)
        return self

    def enqueue(self, user_id: str = USER, examples: int = 1, images: int = 1, **fields: object) -> Any:
        """Enqueues a valid order; the answer of the function."""
        request = order(user_id, examples, images, **fields)
        return self.call("enqueue_generation_batch", p_request=request)

    def run(self, worker: str = "worker") -> Run:
        """A new run."""
        return Run(self, worker)

    def claimed(self, **fields: Any) -> dict[str, Any]:
        """Enqueues one job and claims it; the job as a worker gets it."""
        self.enqueue(**fields)
        (job,) = self.run().claim()
        return job

    def record(self, job: Mapping[str, Any], index: int, name: str = "a", **photo: object) -> Any:
        """Records an image as made."""
        stored = {
            "storagePath": f"{job['userFolder']}/{job['batchId']}/{job['id']}/{index}-{name}",
            "mimeType": "image/png",
            "width": 1024,
            "height": 1024,
            "bytes": 2048,
            "model": "model",
            "generationMs": 4000,
        }
        return self.call(
            "record_generated_photo", p_job_id=job["id"], p_image_index=index, p_photo=stored | photo
        )

    def refuse(self, job: Mapping[str, Any], index: int, code: str = "safety") -> str:
        """Records an image as given up; the result."""
        answer = self.call(
            "record_failed_image",
            p_job_id=job["id"],
            p_image_index=index,
            p_code=code,
            p_message=f"Not made: {code}.",
            p_batch_id=job["batchId"],
        )
        return str(answer["result"])

    def settle(self, job: Mapping[str, Any], outcome: str, **fields: object) -> dict[str, Any]:
        """Settles one job; its entry in the answer."""
        (result,) = self.settle_all([result_of(job, outcome, **fields)])
        return result

    def settle_all(self, results: list[dict[str, object]]) -> list[dict[str, Any]]:
        """Settles several jobs at once; the entries of the answer."""
        answer = self.call("settle_generation_jobs", p_results=results)
        return list(answer["results"])

    def complete(self, job: Mapping[str, Any], **fields: object) -> None:
        """Makes every missing image of a job and settles it as completed."""
        for index in job["missing"]:
            self.record(job, index)
        assert self.settle(job, "completed", **fields)["status"] == "completed"

    def job(self, job_id: int) -> DictRow:
        """A job's row."""
        return self.one("select * from photo_generation_queue where id = %s", [job_id])

    def batch(self, batch_id: str) -> DictRow:
        """A batch's row."""
        return self.one("select * from photo_generation_batches where id = %s", [batch_id])

    def written(self) -> dict[str, int]:
        """How many rows the tables have that an order writes."""
        return {name: self.one(sql.SQL("select count(*) as n from " + name))["n"] for name in ORDER_TABLES}

    def counters(self, batch_id: str) -> tuple[int, int, int, int]:
        """A batch's jobs done and failed, images done and failed."""
        row = self.batch(batch_id)
        return row["jobsDone"], row["jobsFailed"], row["imagesDone"], row["imagesFailed"]


def result_of(job: Mapping[str, Any], outcome: str, **fields: object) -> dict[str, object]:
    """One result for settle, under the job's fence."""
    result: dict[str, object] = {"jobId": job["id"], "fence": job["fence"], "outcome": outcome}
    return result | {"message": f"It was {outcome}.", "code": outcome} | fields


@contextmanager
def refused(status: str, reason: str, field: str = "") -> Iterator[None]:
    """The block is refused with this HTTP status and reason, naming the field, with a hint how to fix it."""
    with pytest.raises(psycopg.Error) as caught:
        yield
    diagnostics = caught.value.diag
    assert (caught.value.sqlstate, diagnostics.message_detail) == (f"PT{status}", reason)
    assert field in (diagnostics.message_primary or "")
    assert diagnostics.message_hint


class Clock:
    """The database's clock, standing still until it is moved; for every session of the database."""

    DEFINITION = sql.SQL("""
        create or replace function generation.clock() returns timestamptz
        language sql stable set search_path = '' as {}""")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        found = connection.execute("select pg_get_functiondef('generation.clock()'::regprocedure) as text")
        self._original = str((found.fetchone() or {})["text"])
        self.now = NOON
        self.set(NOON)

    def set(self, now: datetime) -> None:
        """Moves the clock to a time."""
        self.now = now
        body = sql.Literal(f"select timestamptz '{now.isoformat()}'")
        self._connection.execute(self.DEFINITION.format(body))

    def advance(self, seconds: float) -> None:
        """Moves the clock forward."""
        self.set(self.now + timedelta(seconds=seconds))

    def restore(self) -> None:
        """Puts the real clock back."""
        self._connection.execute(self._original.encode())


@contextmanager
def blocked(other: Queue, call: Callable[[Queue], T], watcher: Queue) -> Iterator[Future[T]]:
    """Start a call on another connection, return once it waits for a lock; the future of its answer."""
    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call, other)
        blockers = "select cardinality(pg_blocking_pids(%s)) as blockers"
        while not watcher.one(blockers, [other.connection.info.backend_pid])["blockers"]:
            assert not future.done(), f"it did not wait but gave {future.result()}"
            assert time.monotonic() < deadline, "it does not wait for a lock"
        yield future
