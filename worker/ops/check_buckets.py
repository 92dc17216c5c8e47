"""What `check` says of the buckets: the one of generated photos, and those that photos may come from."""

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
"""Codes of errors that mean that the key is not, or no longer, the secret one."""

PRIVATE = "in the SQL editor: update storage.buckets set public = false where id = 'generated-photos'"
AGAIN = "run the check again in a minute"
NEXT_RUN = "fix what it says; the next run has Storage take a probe first, and goes on by itself"
RESUME = "fix what it says, then python -m worker gate resume; without that no probe is tried before {}"


async def ask_bucket(project: Project) -> Bucket | GenerationError:
    """The bucket of generated photos, or why it is not known."""
    try:
        return await read_bucket(project, BUCKET, TIMEOUT_SECONDS)
    except GenerationError as error:
        return error


async def bucket_finding(
    project: Project, bucket: Bucket | GenerationError, schema: Mapping[str, Any]
) -> Finding:
    """The gravest of what is wrong with the buckets; `schema` names those that photos may come from."""
    if isinstance(bucket, GenerationError):
        return Finding("bucket", "failed", bucket.message, _fix(bucket))
    if bucket.public is not False:
        return Finding("bucket", "failed", f"{BUCKET} is public: anybody can read the photos", PRIVATE)
    if bucket.refusal:
        return Finding("bucket", "failed", bucket.refusal, f"{INSTALL}: it repairs the bucket")
    refused = schema.get("storageRefused")
    if refused:
        said = f"an image was paid for and not kept ({refused.get('at')}): {refused.get('problem')}"
        wait_until = refused.get("waitUntil")
        return Finding("bucket", "warning", said, RESUME.format(wait_until) if wait_until else NEXT_RUN)
    missing = await _missing(project, [name for name in schema.get("photoBuckets", ()) if name != BUCKET])
    if missing:
        names = ", ".join(missing)
        said = f"photos may come from buckets that are not there: {names}"
        mend = (
            "create them in the dashboard (Storage, New bucket, not public); "
            f"or delete their rows from generation.photo_buckets ({names})"
        )
        return Finding("bucket", "warning", said, mend)
    return Finding("bucket", "ok", f"{BUCKET} is there, private, and takes what Gemini makes")


async def _missing(project: Project, names: list[str]) -> list[str]:
    """Those of the buckets that Storage says are not there."""
    found = await asyncio.gather(*(_is_missing(project, name) for name in names))
    return sorted(name for name, is_missing in zip(names, found, strict=True) if is_missing)


async def _is_missing(project: Project, name: str) -> bool:
    try:
        await read_bucket(project, name, TIMEOUT_SECONDS)
    except Misconfigured as error:
        return error.code == "bucket_missing"
    except QueueUnavailable:
        return False  # not known; the bucket of generated photos was answered for a moment ago
    return False


def _fix(error: GenerationError) -> str:
    if error.code == "bucket_missing":
        return INSTALL
    return "check SUPABASE_URL and the project's Storage" if isinstance(error, Misconfigured) else AGAIN
