"""A bucket's settings, and whether it accepts Gemini's images; checked before anything is paid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from worker.common.deadline import Within
from worker.errors import Misconfigured, QueueUnavailable
from worker.supabase.client import Project
from worker.supabase.retry import call_with_retry
from worker.supabase.storage_errors import ObjectMissing, meaning, read

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
"""The image types that Gemini makes; the installed bucket allows only these
(sql/functions/90_storage.sql)."""

MAX_IMAGE_BYTES = 50 * 1024 * 1024
"""The largest image; the installed bucket's limit (sql/functions/90_storage.sql)."""

TRIES = 3


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket's settings; None means no limit, or a missing field."""

    name: str
    public: bool | None
    max_bytes: int | None
    types: tuple[str, ...] | None

    @property
    def refusal(self) -> str | None:
        """Which of Gemini's images the bucket would refuse; None if it accepts all."""
        refused = [kind for kind in IMAGE_TYPES if not self._allows(kind)]
        if refused:
            return f"bucket {self.name} refuses images of type {', '.join(refused)}"
        if self.max_bytes is not None and self.max_bytes < MAX_IMAGE_BYTES:
            return f"bucket {self.name} refuses images over {self.max_bytes} bytes, below {MAX_IMAGE_BYTES}"
        return None

    def _allows(self, kind: str) -> bool:
        return not self.types or bool({kind, "image/*", "*/*", "*"} & set(self.types))


async def read_bucket(project: Project, name: str, within: Within) -> Bucket:
    """Read a bucket's settings. Raises Misconfigured and QueueUnavailable.

    Does not use the SDK, because its bucket model rejects the whole answer if an unneeded field is invalid.
    """

    async def attempt() -> Bucket:
        return _bucket(name, await _asked(project, name))

    return await call_with_retry(attempt, "Storage: bucket", within, TRIES)


async def _asked(project: Project, name: str) -> Any:
    """Storage's JSON description of a bucket; None if the answer is not JSON."""
    import httpx

    url = f"{project.url}/storage/v1/bucket/{quote(name)}"
    try:
        answer = await project.http.get(url, headers=project.headers())
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise QueueUnavailable("unreachable", f"Storage: bucket: {type(exc).__name__}") from exc
    if answer.status_code != 200:
        error = meaning(read(answer.status_code, answer.content), f"settings of bucket {name}")
        if isinstance(error, ObjectMissing):
            raise Misconfigured("bucket_missing", f"Storage has no bucket {name}") from error
        raise error
    try:
        return answer.json()
    except ValueError:
        return None


def _bucket(name: str, answer: Any) -> Bucket:
    if not isinstance(answer, Mapping) or "id" not in answer:
        raise Misconfigured("storage_missing", "the answer is not from Supabase Storage: check SUPABASE_URL")
    limit, types = answer.get("file_size_limit"), answer.get("allowed_mime_types")
    return Bucket(
        name=name,
        public=answer.get("public"),
        max_bytes=limit if type(limit) is int else None,
        types=tuple(map(str, types)) if isinstance(types, list) else None,
    )
