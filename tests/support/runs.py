"""Whole runs on the local stack and the simulator: a customer, their orders, workers, an audit."""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar
from uuid import uuid4

import psycopg
import pytest
from PIL import Image
from psycopg.rows import DictRow
from supabase import AsyncClient

from local.demo.environment import kept
from local.simulator.gemini import Simulator
from local.simulator.ledger import Call, Ledger
from local.stack.stack import Stack
from tests.support.queue_invariants import check_invariants
from worker.app import Worker
from worker.jobs import Photo
from worker.photos.download import PhotoDownload
from worker.photos.prepare import PhotoPreparer
from worker.run.request import RunRequest
from worker.settings import Settings

MODEL = "gemini-2.5-flash-image"
SUCCESSOR = "gemini-3.1-flash-image"
NEWEST = "gemini-nano-banana-2.1"
KEY = "key-of-a-test-1234567890"
SOURCES = "training-photos"
BUSY_SECONDS = 20.0
"""What a busy machine may add to a time that a run keeps; a call that nothing cuts would hang for minutes."""

USUAL = RunRequest()
Summary = Mapping[str, Any]


def picture(colour: str = "teal", kind: str = "PNG") -> bytes:
    """A small source photo."""
    out = io.BytesIO()
    Image.new("RGB", (96, 64), colour).save(out, kind)
    return out.getvalue()


class UsualPhotos(PhotoPreparer):
    """Prepares the usual photo once for all tests of a process: starting a decoder for each of their workers
    would be a quarter of what they compute."""

    ready: ClassVar[dict[int | None, Photo]] = {}
    usual = picture()

    async def prepare(self, data: bytes, user_folder: str, shown: str) -> Photo:
        """The photo as it is sent to Gemini."""
        if data != self.usual:
            return await super().prepare(data, user_folder, shown)
        if self._max_edge not in self.ready:
            self.ready[self._max_edge] = await super().prepare(data, user_folder, shown)
        return self.ready[self._max_edge]


def fresh_order(examples: tuple[str, ...], images: int, photo: str, **fields: object) -> dict[str, object]:
    """An order of a job for each name in `examples`, found in brackets early in its prompt."""
    return {
        "basePrompt": "A portrait in the evening sun",
        "numImagesPerExample": images,
        "trainingImageUrls": [photo],
        "exampleImages": [{"url": photo, "prompt": f"[{name}]"} for name in examples],
        **fields,
    }


def environment(stack: Stack) -> dict[str, str]:
    """The settings of a worker."""
    return {
        "SUPABASE_URL": stack.url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.secret_key,
        "SUPABASE_ANON_KEY": stack.publishable_key,
        "GEMINI_API_KEY": KEY,
        "RETRY_BASE_SECONDS": "0.1",  # waiting between tries would be most of the tests' time
    }


def process_environment(stack: Stack, gemini: Simulator) -> dict[str, str]:
    """All that a process with a worker in it gets."""
    return {**kept(), **environment(stack), "GOOGLE_GEMINI_BASE_URL": gemini.url}


class Site:
    """A customer's view of the stack, and the operator's: what is ordered, run, stored and paid for."""

    def __init__(
        self, stack: Stack, gemini: Simulator, db: psycopg.Connection[DictRow], service: AsyncClient
    ) -> None:
        self.stack, self.gemini, self.db, self.service = stack, gemini, db, service
        self.user = f"user-{uuid4().hex[:12]}"
        self.photo = f"{SOURCES}/{self.user}/me.png"
        self._workers: list[Worker] = []

    def worker(self, web: PhotoDownload | None = None, /, **settings: str) -> Worker:
        """A new worker; `settings` are environment variables, `web` is its way to photo hosts."""
        worker_id = f"worker-{len(self._workers) + 1}"
        self._workers.append(Worker(Settings.from_env(environment(self.stack) | settings, worker_id), web))
        return self._workers[-1]

    async def run(self, request: RunRequest = USUAL, /, **settings: str) -> Summary:
        """The summary of one run of a new worker."""
        return await self.worker(**settings).run(request)

    async def close(self) -> None:
        """Close every worker."""
        for worker in self._workers:
            await worker.close()

    async def upload(self, name: str, data: bytes, kind: str = "image/png", user: str = "") -> str:
        """Store a source photo of the customer, or of another user; the reference to it."""
        path = f"{user or self.user}/{name}"
        await self.service.storage.from_(SOURCES).upload(path, data, {"content-type": kind})
        return f"{SOURCES}/{path}"

    async def order(self, *examples: str, images: int = 1, photo: str = "", **fields: object) -> list[int]:
        """Enqueue a batch of one job for each name; the jobs' ids."""
        request = {"userId": self.user, **fresh_order(examples, images, photo or self.photo, **fields)}
        answer = await self.service.rpc("enqueue_generation_batch", {"p_request": request}).execute()
        assert isinstance(answer.data, dict)
        ids = answer.data["jobIds"]
        assert isinstance(ids, list)
        return [int(str(job_id)) for job_id in ids]

    def rows(self, query: str, *parameters: object) -> list[DictRow]:
        """The rows of a query."""
        return self.db.execute(query.encode(), parameters).fetchall()

    def job(self, job_id: int) -> DictRow:
        """A job's row; `due` are the seconds until its `retryAt`, by the database's clock."""
        (row,) = self.rows(
            'select *, extract(epoch from "retryAt" - clock_timestamp())::float as due '
            "from photo_generation_queue where id = %s",
            job_id,
        )
        return row

    def batch(self, job_id: int) -> str:
        """The status of a job's batch."""
        (row,) = self.rows(
            "select * from photo_generation_batches where id = %s", self.job(job_id)["batchId"]
        )
        return str(row["status"])

    def photos(self, job_id: int | None = None) -> list[DictRow]:
        """The photos of a job, or all, in order."""
        return self.rows(
            'select * from photo_generation_photos where %s::bigint in ("jobId", 0)'
            ' order by "jobId", "imageIndex"',
            job_id or 0,
        )

    def objects(self) -> dict[str, str]:
        """The customer's generated objects in Storage: their types by path."""
        found = self.rows(
            "select name, metadata ->> 'mimetype' as type from storage.objects"
            " where bucket_id = 'generated-photos' and starts_with(name, %s)",
            f"{self.user}/",
        )
        return {row["name"]: row["type"] for row in found}

    async def fetch(self, path: str) -> bytes:
        """The bytes of a generated object."""
        return await self.service.storage.from_("generated-photos").download(path)

    def expire_leases(self) -> None:
        """Make every lease run out now, as the death of its worker would in time."""
        self.rows(
            "update photo_generation_queue set \"leaseExpiresAt\" = now() - interval '1 second' "
            "where status = 'processing' returning id"
        )

    def make_due(self) -> None:
        """Make every waiting job due now, and open the gates that a 429 has closed."""
        self.rows("select set_generation_rate(model, 100000, 1000) from generation.gates")
        self.rows(
            'update photo_generation_queue set "retryAt" = now() where "retryAt" is not null returning id'
        )

    def calls(self, name: str = "") -> list[Call]:
        """The calls to Gemini for the example of this name, or all; in order of arrival."""
        return [call for call in self.gemini.ledger.calls if not name or f"[{name}]" in call.prompt_start]

    async def until(self, condition: Callable[[Ledger], object], seconds: float = 60.0) -> None:
        """Wait until the ledger fulfils the condition."""
        ledger = self.gemini.ledger
        assert await asyncio.to_thread(ledger.wait, condition, seconds), ledger.summary()

    async def open_calls(self, count: int) -> None:
        """Wait until this many requests are pending."""
        await self.until(lambda ledger: ledger.outcomes().get("open", 0) == count)

    async def until_row(self, query: str, *parameters: object, seconds: float = 60.0) -> DictRow:
        """Wait until a query finds a row, and return it."""
        deadline = time.monotonic() + seconds
        while not (found := self.rows(query, *parameters)):
            assert time.monotonic() < deadline, query
            await asyncio.sleep(0.02)
        return found[0]

    def audit(self, *summaries: Summary, lost: int = 0, foreign: int = 0) -> None:
        """Summaries, rows, objects and ledger agree, and nothing was paid for twice.

        `lost` images came from Gemini and could not be stored; `foreign` ones were not made by it.
        """
        check_invariants(self.db)
        photos = self.photos()
        delivered = [call for call in self.gemini.ledger.calls if call.outcome == "image"]
        shas = {sha for call in delivered for sha in call.image_shas}
        discarded = sum(s["images"]["discarded"] for s in summaries)
        assert len(delivered) + foreign == len(photos) + discarded + lost, self.gemini.ledger.summary()
        assert sum(row["storagePath"].rsplit("-", 1)[1] not in shas for row in photos) == foreign
        assert {row["storagePath"] for row in photos} == set(self.objects())
        for summary in summaries:
            self._audit_summary(summary)
        if summaries:
            self._audit_sums(summaries)

    def _audit_summary(self, summary: Summary) -> None:
        ends = ("completed", "failed", "retried", "rateLimited", "leaseLost")
        assert summary["claimed"] == sum(summary[end] for end in ends), summary
        assert sum(summary["failuresByCode"].values()) == summary["failed"], summary
        kept = self.rows("select summary from generation.runs where id = %s", summary["runId"])
        if summary["claimed"]:
            assert kept[0]["summary"] == {**summary, "durationSeconds": kept[0]["summary"]["durationSeconds"]}

    def _audit_sums(self, summaries: tuple[Summary, ...]) -> None:
        images = [s["images"] for s in summaries]
        assert sum(i["made"] + i["adopted"] for i in images) == len(self.photos())
        assert sum(i["refused"] for i in images) == len(self.rows("select from generation.failed_images"))
        for status in ("completed", "failed"):
            rows = self.rows("select from photo_generation_queue where status = %s", status)
            assert sum(s[status] for s in summaries) == len(rows), status
        failed = self.rows("""select "errorCode" from photo_generation_queue where status = 'failed'""")
        told = sum((Counter(s["failuresByCode"]) for s in summaries), Counter[str]())
        assert told == Counter(row["errorCode"] for row in failed)


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries of a call to Supabase follow each other at once: the waits between them are not the subject."""
    monkeypatch.setattr("backoff.full_jitter", lambda _seconds: 0.0)


@pytest.fixture
async def site(
    stack: Stack,
    simulator: Simulator,
    db: psycopg.Connection[DictRow],
    service: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Site]:
    """A customer with one source photo, an empty queue, and a Gemini that sends small images at once."""
    simulator.reset()
    simulator.configure(latency=0.0, scale=0.25)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", simulator.url)
    monkeypatch.setattr("worker.app.PhotoPreparer", UsualPhotos)
    if not db.execute("select from storage.buckets where id = %s", [SOURCES]).rowcount:
        await service.storage.create_bucket(SOURCES)
    opened = Site(stack, simulator, db, service)
    await opened.upload("me.png", picture())
    yield opened
    simulator.release()
    await opened.close()
    simulator.reset()
