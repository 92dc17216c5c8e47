"""The finding of `check` about the buckets: that of generated photos, and those of source photos."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from worker.errors import GenerationError, Misconfigured, QueueUnavailable
from worker.ops.finding import Finding
from worker.supabase.bucket import Bucket, read_bucket
from worker.supabase.client import Project
from worker.supabase.rpc_errors import INSTALL
from worker.supabase.storage import BUCKET

TIMEOUT_SECONDS = 10.0
KEY_REFUSED = frozenset({"key_refused", "storage_refused"})
"""Error codes that mean that the key is not a valid secret key."""

PRIVATE = "in the SQL editor: update storage.buckets set public = false where id = 'generated-photos'"
AGAIN = "run the check again in a minute"
NEXT_RUN = "fix this problem; the next run first stores a test object, and continues by itself if that works"
RESUME = "fix this problem, then run python -m worker gate resume; otherwise no run tries again before {}"


async def ask_bucket(project: Project) -> Bucket | GenerationError:
    """The bucket of generated photos, or the error of reading it."""
    try:
        return await read_bucket(project, BUCKET, TIMEOUT_SECONDS)
    except GenerationError as error:
        return error


async def bucket_finding(
    project: Project, bucket: Bucket | GenerationError, schema: Mapping[str, Any]
) -> Finding:
    """The worst problem of the buckets; `schema` has the names of the buckets that photos may come from."""
    if isinstance(bucket, GenerationError):
        return Finding("bucket", "failed", bucket.message, _fix(bucket))
    if bucket.public is not False:
        return Finding("bucket", "failed", f"{BUCKET} is public: anybody can read the photos", PRIVATE)
    if bucket.refusal:
        return Finding("bucket", "failed", bucket.refusal, f"{INSTALL}; it repairs the bucket")
    refused = schema.get("storageRefused")
    if refused:
        message = f"an image was paid for but not stored ({refused.get('at')}): {refused.get('problem')}"
        wait_until = refused.get("waitUntil")
        return Finding("bucket", "warning", message, RESUME.format(wait_until) if wait_until else NEXT_RUN)
    missing = await _missing(project, [name for name in schema.get("photoBuckets", ()) if name != BUCKET])
    if missing:
        names = ", ".join(missing)
        message = f"photos may come from buckets that do not exist: {names}"
        fix = (
            "create them in the dashboard (Storage, New bucket, not public), "
            f"or delete their rows from generation.photo_buckets ({names})"
        )
        return Finding("bucket", "warning", message, fix)
    return Finding("bucket", "ok", f"{BUCKET} exists, is private and accepts Gemini's images")


async def _missing(project: Project, names: list[str]) -> list[str]:
    """Those of the buckets that do not exist."""
    found = await asyncio.gather(*(_is_missing(project, name) for name in names))
    return sorted(name for name, is_missing in zip(names, found, strict=True) if is_missing)


async def _is_missing(project: Project, name: str) -> bool:
    try:
        await read_bucket(project, name, TIMEOUT_SECONDS)
    except Misconfigured as error:
        return error.code == "bucket_missing"
    except QueueUnavailable:
        return False  # unknown; Storage answered for the bucket of generated photos a moment ago
    return False


def _fix(error: GenerationError) -> str:
    if error.code == "bucket_missing":
        return INSTALL
    return "check SUPABASE_URL and the project's Storage" if isinstance(error, Misconfigured) else AGAIN
