"""Objects as dead or late workers leave them in Storage, and the jobs they belong to."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import uuid4

from tests.support.runs import MODEL, Site, picture
from worker.app import Worker
from worker.jobs import Job

AGE = """
    update photo_generation_queue set "completedAt" = "completedAt" - interval '11 minutes'
    where "completedAt" is not null returning id"""


def named(index: int, data: bytes) -> str:
    """The name a worker gives an image."""
    return f"{index}-{hashlib.sha256(data).hexdigest()[:16]}"


async def put(site: Site, path: str, data: bytes = b"") -> str:
    """Store an object; its path."""
    bucket = site.service.storage.from_("generated-photos")
    await bucket.upload(path, data or picture(), {"content-type": "image/png"})
    return path


async def claimed(site: Site, worker: Worker, images: int = 1) -> Job:
    """A new job, claimed by a worker that does nothing with it yet."""
    await site.order("a", images=images)
    (job,) = (await worker.queue.claim(uuid4(), uuid4(), 1, 60.0, MODEL, 10.0)).jobs
    return job


async def cancelled(site: Site, job: Job) -> None:
    """A job's order is cancelled, a while ago."""
    await site.service.rpc("cancel_generation_batch", {"p_batch_id": job.batch_id}).execute()
    site.rows(AGE)


async def failed(site: Site, images: int = 1) -> Job:
    """A job that failed a while ago under its first claim, with nothing recorded."""
    worker = site.worker()
    job = await claimed(site, worker, images)
    fail = {"jobId": job.id, "fence": job.fence, "outcome": "failed", "code": "x", "message": "x"}
    await worker.queue.rpc("settle_generation_jobs", {"p_results": [fail]})
    site.rows(AGE)
    return job


def photo(path: str) -> dict[str, Any]:
    """The row data that a worker reports for a stored image."""
    return {
        "storagePath": path, "mimeType": "image/png", "width": 96, "height": 64, "bytes": 100, "model": MODEL,
    }  # fmt: skip
