"""Nothing is paid for that could not be kept: Storage is asked first, and tried once it refused an image.

The bucket's settings are read once per process. Whatever else Storage refuses is known only by trying: an
image that was paid for and not kept is remembered in the database, for all workers. Until Storage has taken a
probe of that size and type, runs give their jobs back and pay for nothing. Where it takes probes and refuses
images all the same, the next probe waits ever longer (report_storage in sql/62_storage_refusal.sql).
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Protocol
from uuid import uuid4

from worker import log
from worker.deadline import Within
from worker.errors import GenerationError, Misconfigured
from worker.jobs import GeneratedImage, Usage
from worker.run.deadlines import Deadlines
from worker.supabase.bucket import MAX_IMAGE_BYTES
from worker.supabase.database_time import is_before
from worker.supabase.queue import Database

CALL_SECONDS = 15.0
"""What looking at the bucket, an upload of the probe, or a report may take."""

FOLDER = "=probe"
"""No user's folder: in those `=` is followed by 3D or 7C (generation.user_folder). No sweep looks into it."""

PIXELS = {
    "image/png": (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
    ),
    "image/webp": "UklGRhoAAABXRUJQVlA4TA4AAAAvAAAAAAcQEf0PRET/Aw==",
    "image/jpeg": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcp"
        "LDAxNDQ0Hyc5PTgyPC4zNDL/wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAACP/EABQQAQAAAAAAAAAAAAAAAAAA"
        "AAD/2gAIAQEAAD8AP7//2Q=="
    ),
}
"""An image of one pixel of each type; what follows an image's end is no part of it."""


class Bucket(Protocol):
    """Where images are kept; raises Misconfigured and QueueUnavailable."""

    async def check(self, within: Within) -> None: ...

    async def put(self, path: str, image: GeneratedImage, within: Within) -> None: ...

    async def remove(self, path: str, within: Within) -> None: ...


class StorageProof:
    """What a process knows of Storage; shared by its runs."""

    def __init__(self, bucket: Bucket, database: Database) -> None:
        self._bucket, self._database = bucket, database
        self._checked = False
        self._untold: Mapping[str, Any] | None = None

    async def require(self, refused: Mapping[str, Any] | None, now: str | None, deadlines: Deadlines) -> None:
        """Return once an image can be kept; `refused` is the last refusal that the claim told of, at `now`.

        Raises Misconfigured and QueueUnavailable: then nothing may be paid for.
        """
        _refuse_before_its_time(refused, now)
        refused = refused or self._untold
        if refused or not self._checked:
            await self._bucket.check(deadlines.generate.within(CALL_SECONDS))
            self._checked = True
        if refused:
            await self._prove(refused, deadlines)

    async def refuse(self, image: GeneratedImage, error: GenerationError, deadlines: Deadlines) -> None:
        """Remember for all workers that an image which had been paid for was not kept.

        At once, so that they know of it even if this process dies; `tell` tries again at the run's end.
        """
        self._checked = False
        self._untold = {
            "bytes": len(image.data),
            "mimeType": image.mime_type,
            "problem": error.message,
            "inTime": not deadlines.save.passed,
        }
        log.event(
            "storage_refused", level="error", code=error.code, reason=error.message, bytes=len(image.data)
        )
        latest = deadlines.settle if deadlines.save.passed else deadlines.save
        seconds = deadlines.settle.remaining / 2  # the rest is for the job's own end
        await self.tell(latest.within(min(seconds, CALL_SECONDS)))

    async def tell(self, within: Within) -> None:
        """Tell the database of a refusal that it has not taken yet."""
        if self._untold and await self._report(False, self._untold, within):
            self._untold = None

    async def _prove(self, refused: Mapping[str, Any], deadlines: Deadlines) -> None:
        """Have Storage take an image as large as the one it refused, and of its type."""
        probe, path = probe_image(refused), f"{FOLDER}/{uuid4()}"
        await self._bucket.put(path, probe, deadlines.generate.within(CALL_SECONDS))
        self._untold = None
        log.event("storage_proved", bytes=len(probe.data))
        try:
            await self._bucket.remove(path, deadlines.generate.within(CALL_SECONDS))
        except GenerationError as error:
            log.event("object_left", level="warning", code=error.code, reason=error.message)
        await self._report(True, refused, deadlines.generate.within(CALL_SECONDS))

    async def _report(self, is_kept: bool, facts: Mapping[str, Any], within: Within) -> bool:
        """Whether the database has taken it; if not, this process remembers a refusal by itself."""
        try:
            params = {"p_kept": is_kept, "p_facts": dict(facts)}
            await self._database.rpc("report_storage", params, within)
        except GenerationError as error:
            log.event("storage_not_reported", level="error", code=error.code, reason=error.message)
            return False
        return True


def _refuse_before_its_time(refused: Mapping[str, Any] | None, now: str | None) -> None:
    until = (refused or {}).get("waitUntil")
    if refused and is_before(now, until):
        raise Misconfigured(
            "storage_relapsed",
            f"Storage took a probe and then refused an image: {refused.get('problem')}; it is tried again at "
            f"{until}, or at once after python -m worker gate resume",
        )


def probe_image(refused: Mapping[str, Any]) -> GeneratedImage:
    """An image of the refused one's type and size, or nearly."""
    kind = str(refused.get("mimeType"))
    kind = kind if kind in PIXELS else "image/png"
    size = min(int(refused.get("bytes") or 0), MAX_IMAGE_BYTES)
    return GeneratedImage(b64decode(PIXELS[kind]).ljust(size, b"\0"), kind, 1, 1, Usage(model="probe"))
