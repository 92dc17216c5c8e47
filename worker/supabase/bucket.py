"""A bucket's own settings, and whether it takes what Gemini makes: known before anything is paid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from worker.deadline import Within
from worker.errors import Misconfigured, QueueUnavailable
from worker.supabase.client import Project
from worker.supabase.retry import call_with_retry
from worker.supabase.storage_errors import ObjectMissing, meaning, read

IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
"""What Gemini makes; the installed bucket allows just these (sql/90_storage.sql)."""

MAX_IMAGE_BYTES = 50 * 1024 * 1024
"""The largest image; the installed bucket's limit (sql/90_storage.sql)."""

TRIES = 3


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as Storage describes it; None is no limit, or a field that it left out."""

    name: str
    public: bool | None
    max_bytes: int | None
    types: tuple[str, ...] | None

    @property
    def refusal(self) -> str | None:
        """What it would refuse of the images that Gemini makes; None if it takes all."""
        refused = [kind for kind in IMAGE_TYPES if not self._allows(kind)]
        if refused:
            return f"bucket {self.name} refuses images of type {', '.join(refused)}"
        if self.max_bytes is not None and self.max_bytes < MAX_IMAGE_BYTES:
            return f"bucket {self.name} refuses images over {self.max_bytes} bytes, below {MAX_IMAGE_BYTES}"
        return None

    def _allows(self, kind: str) -> bool:
        return not self.types or bool({kind, "image/*", "*/*", "*"} & set(self.types))


async def read_bucket(project: Project, name: str, within: Within) -> Bucket:
    """A bucket's settings. Raises Misconfigured and QueueUnavailable.

    Asked without the SDK, whose model of a bucket refuses the whole answer for a field that nobody needs.
    """

    async def attempt() -> Bucket:
        return _bucket(name, await _asked(project, name))

    return await call_with_retry(attempt, "Storage: bucket", within, TRIES)


async def _asked(project: Project, name: str) -> Any:
    """What Storage says of a bucket; None where that is no JSON."""
    import httpx

    url = f"{project.url}/storage/v1/bucket/{quote(name)}"
    try:
        answer = await project.http.get(url, headers=project.headers())
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise QueueUnavailable("unreachable", f"Storage: bucket: {type(exc).__name__}") from exc
    if answer.status_code != 200:
        error = meaning(read(answer.status_code, answer.content), f"describing bucket {name}")
        if isinstance(error, ObjectMissing):
            raise Misconfigured("bucket_missing", f"Storage has no bucket {name}") from error
        raise error
    try:
        return answer.json()
    except ValueError:
        return None


def _bucket(name: str, said: Any) -> Bucket:
    if not isinstance(said, Mapping) or "id" not in said:
        raise Misconfigured("storage_missing", "what answers is no Storage: check SUPABASE_URL")
    limit, types = said.get("file_size_limit"), said.get("allowed_mime_types")
    return Bucket(
        name=name,
        public=said.get("public"),
        max_bytes=limit if type(limit) is int else None,
        types=tuple(map(str, types)) if isinstance(types, list) else None,
    )
