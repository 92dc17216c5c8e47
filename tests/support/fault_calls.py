"""The calls of the fault matrix: what each looks like on the wire, and how a run is brought to make it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid4

from tests.support.runs import MODEL, Site, picture
from worker.jobs import GeneratedImage, Job, Usage
from worker.supabase.storage import BUCKET, object_path, photo_row
from worker.supabase.storage_proof import FOLDER


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the worker: the request on the wire, the orders that lead to it, what happens meanwhile.

    `foreign` images are recorded that Gemini did not make, `discarded` ones were made and are not wanted.
    """

    request: str
    arrange: Callable[[Site], Awaitable[None]]
    meanwhile: Callable[[Site], Awaitable[None]] | None = None
    foreign: int = 0
    discarded: int = 0


async def usual(site: Site) -> None:
    """A job of two images."""
    await site.order("a", images=2)


async def refused(site: Site) -> None:
    """A job of two images, one of which Gemini refuses."""
    site.gemini.add_rule({"kind": "finish", "reason": "IMAGE_SAFETY"}, times=1)
    await site.order("a", images=2)


async def limited(site: Site) -> None:
    """A job whose first image meets a used-up quota."""
    site.gemini.add_rule({"kind": "quota", "limit": 10, "retry_seconds": 1.0}, times=1)
    await site.order("a")


async def retired(site: Site) -> None:
    """A job for a model that has been shut down."""
    site.gemini.configure(retired=[MODEL])
    await site.order("a")


async def _claimed_and_released(site: Site) -> tuple[Job, GeneratedImage, str]:
    """A job of two images that an earlier run has claimed and given back; its second image and the path."""
    await site.order("a", images=2)
    queue, run = site.worker().queue, uuid4()
    (job,) = (await queue.claim(run, uuid4(), 1, 60.0, MODEL, 10.0)).jobs
    await queue.finish(run, {}, [], 10.0)
    data = picture("orange")
    image = GeneratedImage(data, "image/png", 96, 64, Usage(model="another"))
    return job, image, object_path(job, 1, data)


async def stored(site: Site) -> None:
    """A job of which an earlier run has stored one image and not recorded it."""
    _, image, path = await _claimed_and_released(site)
    await site.worker().store.put(path, image, 10.0)


async def stored_bare(site: Site) -> None:
    """The same, with a Storage that lost the metadata."""
    _, image, path = await _claimed_and_released(site)
    await site.service.storage.from_(BUCKET).upload(path, image.data, {"content-type": image.mime_type})


async def refused_once(site: Site) -> None:
    """A job, after Storage has refused what another one paid for."""
    await site.order("a")
    report = {"p_kept": False, "p_facts": {"bytes": 5000, "mimeType": "image/png"}}
    await site.service.rpc("report_storage", report).execute()


async def held(site: Site) -> None:
    """A job of one image that Gemini holds back."""
    site.gemini.add_rule({"kind": "image", "hold": True}, times=1)
    await site.order("a")


async def overtaken(site: Site) -> None:
    """While Gemini makes the held image, another worker stores and records its own."""
    await site.open_calls(1)
    (row,) = site.rows("select * from photo_generation_queue")
    data = picture("orange")
    path = f"{site.user}/{row['batchId']}/{row['id']}/0-{'0' * 16}"
    image = GeneratedImage(data, "image/png", 96, 64, Usage(model="another"))
    await site.worker().store.put(path, image, 10.0)
    record = {"p_job_id": row["id"], "p_image_index": 0, "p_photo": photo_row(path, image)}
    await site.service.rpc("record_generated_photo", record).execute()
    site.gemini.release()


def rpc(function: str) -> str:
    """A database function on the wire."""
    return f"POST /rest/v1/rpc/{function}$"


OBJECT = "/storage/v1/object"
PROBES = f"({FOLDER}|{FOLDER.replace('=', '%3D')})"

CALLS: dict[str, Call] = {
    "claim_generation_jobs": Call(rpc("claim_generation_jobs"), usual),
    "take_start_slots": Call(rpc("take_start_slots"), usual),
    "report_rate_limit": Call(rpc("report_rate_limit"), limited),
    "record_generated_photo": Call(rpc("record_generated_photo"), usual),
    "record_failed_image": Call(rpc("record_failed_image"), refused),
    "settle_generation_jobs": Call(rpc("settle_generation_jobs"), usual),
    "finish_generation_run": Call(rpc("finish_generation_run"), usual),
    "retire_generation_model": Call(rpc("retire_generation_model"), retired),
    "report_storage": Call(rpc("report_storage"), refused_once),
    "bucket": Call(f"GET /storage/v1/bucket/{BUCKET}$", usual),
    "probe": Call(f"POST {OBJECT}/{BUCKET}/{PROBES}/", refused_once),
    "probe_removed": Call(f"DELETE {OBJECT}/{BUCKET}$", refused_once),
    "download": Call(f"GET {OBJECT}/authenticated/training-photos/", usual),
    "upload": Call(f"POST {OBJECT}/{BUCKET}/", usual),
    "list": Call(f"POST {OBJECT}/list/{BUCKET}$", stored, foreign=1),
    "info": Call(f"GET {OBJECT}/info/.*{BUCKET}/", stored, foreign=1),
    "adopt": Call(f"GET {OBJECT}/authenticated/{BUCKET}/", stored_bare, foreign=1),
    "remove": Call(f"DELETE {OBJECT}/{BUCKET}$", held, overtaken, foreign=1, discarded=1),
}
"""By the name of the database function, or what is done to Storage."""

GEMINI = Call("POST /v1/models/.*:generateContent", usual)
