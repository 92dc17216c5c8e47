"""Lists and removes objects in the folders of the generated-photos bucket, for the sweep.

Uses only paths that the listing of the requested folder returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.supabase.client import Project
from worker.supabase.retry import call_with_retry
from worker.supabase.storage import BUCKET, translated

PAGE = 1000
"""Most entries per listing and objects per removal (Supabase Storage's limit for both)."""

ONCE = 1
"""Tries per call; the next sweep repeats a failed one."""

BY_NAME = {"column": "name", "order": "asc"}


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's full path and its size."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing: objects, subfolders, and the next page's offset (None at the end)."""

    objects: tuple[StoredObject, ...]
    folders: tuple[str, ...]
    next_offset: int | None


class Folders:
    """The bucket of generated photos as folders. Raises QueueUnavailable and Misconfigured."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def page(self, folder: str, offset: int, timeout_seconds: float) -> Page:
        """List a folder by name from `offset` on; ignores entries outside the folder."""
        options = {"limit": PAGE, "offset": offset, "sortBy": BY_NAME}

        async def attempt() -> list[dict[str, Any]]:
            with translated("list"):
                # The trailing slash keeps a server from treating `…/1` as a prefix of `…/12`.
                listed: list[dict[str, Any]] = await self._bucket().list(f"{folder}/", options)
                return listed

        entries = await call_with_retry(attempt, "Storage: list", timeout_seconds, ONCE)
        paths = [(_whole(folder, str(entry["name"])), entry) for entry in entries]
        inside = [(path, entry) for path, entry in paths if path.startswith(f"{folder}/")]
        return Page(
            objects=tuple(StoredObject(path, _size(entry)) for path, entry in inside if entry.get("id")),
            folders=tuple(path for path, entry in inside if not entry.get("id")),
            next_offset=offset + len(entries) if len(entries) >= PAGE else None,
        )

    async def remove(self, objects: Sequence[StoredObject], timeout_seconds: float) -> list[StoredObject]:
        """Remove objects and return those that existed; idempotent."""
        removed: set[str] = set()

        async def attempt() -> None:
            for start in range(0, len(objects), PAGE):
                some = [each.path for each in objects[start : start + PAGE]]
                with translated("remove"):
                    removed.update(str(gone["name"]) for gone in await self._bucket().remove(some))

        await call_with_retry(attempt, "Storage: remove", timeout_seconds, ONCE)
        return [each for each in objects if each.path in removed]

    def _bucket(self) -> Any:
        return self._project.storage.from_(BUCKET)


def _whole(folder: str, name: str) -> str:
    # Supabase returns names relative to the folder, other servers full paths.
    return name if "/" in name else f"{folder}/{name}"


def _size(entry: dict[str, Any]) -> int:
    return int((entry.get("metadata") or {}).get("size") or 0)
