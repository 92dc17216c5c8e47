"""Checks that Storage can store an image before a run pays for one.

The bucket's settings are read once per process. Other refusals show only on upload: a refused paid image is
recorded in the database for all workers. Until Storage accepts a probe of that size and type, runs release
their jobs and send no requests. If Storage accepts probes but still refuses images, the delay before the next
probe grows (report_storage in sql/functions/62_storage_refusal.sql).
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from worker import log
from worker.common.deadline import Deadline, Within
from worker.errors import GenerationError, Misconfigured
from worker.jobs import GeneratedImage, Usage
from worker.supabase.bucket import MAX_IMAGE_BYTES
from worker.supabase.database_time import is_before
from worker.supabase.queue import Queue
from worker.supabase.storage import PhotoStore

CALL_SECONDS = 15.0
"""Timeout of reading the bucket's settings, of a probe's upload or removal, and of a report."""

FOLDER = "=probe"
"""Not a user's folder: there `=` is followed by 3D or 7C (generation.user_folder). Sweeps skip it."""

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
"""A one-pixel image of each type. Padding after the image's end is ignored by decoders."""


class StorageProof:
    """What a process knows about Storage; shared by its runs."""

    def __init__(self, store: PhotoStore, queue: Queue) -> None:
        self._store, self._queue = store, queue
        self._checked = False
        self._unreported: Mapping[str, Any] | None = None

    async def require(self, refused: Mapping[str, Any] | None, now: str, deadline: Deadline) -> None:
        """Return if an image can be stored; `refused` and `now` are the last refusal and the claim's time.

        Raises Misconfigured and QueueUnavailable; then no request may be sent.
        """
        if refused:
            _refuse_before_its_time(refused, now)
        refused = refused or self._unreported
        if refused or not self._checked:
            await self._store.check(deadline.within(CALL_SECONDS))
            self._checked = True
        if refused:
            await self._prove(refused, deadline)

    async def refuse(
        self, image: GeneratedImage, error: GenerationError, in_time: bool, deadline: Deadline
    ) -> None:
        """Record for all workers that a paid image was not stored, although there was time if `in_time`.

        Reported immediately, in case this process dies; if that fails, `report_pending` repeats it at the
        end of the run.
        """
        self._checked = False
        self._unreported = {
            "bytes": len(image.data),
            "mimeType": image.mime_type,
            "problem": error.message,
            "inTime": in_time,
        }
        log.event(
            "storage_refused", level="error", code=error.code, reason=error.message, bytes=len(image.data)
        )
        await self.report_pending(deadline.within(CALL_SECONDS))

    async def report_pending(self, within: Within) -> None:
        """Report a refusal that has not been recorded yet."""
        if self._unreported and await self._report(False, self._unreported, within):
            self._unreported = None

    async def _prove(self, refused: Mapping[str, Any], deadline: Deadline) -> None:
        """Upload a probe of the refused image's size and type."""
        probe, path = probe_image(refused), f"{FOLDER}/{uuid4()}"
        await self._store.put(path, probe, deadline.within(CALL_SECONDS))
        self._unreported = None
        log.event("storage_proved", bytes=len(probe.data))
        try:
            await self._store.remove(path, deadline.within(CALL_SECONDS))
        except GenerationError as error:
            log.event("object_left", level="warning", code=error.code, reason=error.message)
        await self._report(True, refused, deadline.within(CALL_SECONDS))

    async def _report(self, is_kept: bool, facts: Mapping[str, Any], within: Within) -> bool:
        """Report to the database; returns whether that succeeded."""
        try:
            params = {"p_kept": is_kept, "p_facts": dict(facts)}
            await self._queue.rpc("report_storage", params, within)
        except GenerationError as error:
            log.event("storage_not_reported", level="error", code=error.code, reason=error.message)
            return False
        return True


def _refuse_before_its_time(refused: Mapping[str, Any], now: str) -> None:
    until = refused.get("waitUntil")  # gone once an operator has resumed
    if until and is_before(now, until):
        raise Misconfigured(
            "storage_relapsed",
            f"Storage accepted a probe but then refused an image: {refused['problem']}; the next probe "
            f"is at {until}; to probe now, run python -m worker gate resume",
        )


def probe_image(refused: Mapping[str, Any]) -> GeneratedImage:
    """A probe of the refused image's type and size; PNG if the type is unknown, within the bucket's limit."""
    kind = refused["mimeType"] if refused["mimeType"] in PIXELS else "image/png"
    size = min(refused["bytes"], MAX_IMAGE_BYTES)
    return GeneratedImage(b64decode(PIXELS[kind]).ljust(size, b"\0"), kind, 1, 1, Usage(model="probe"))
