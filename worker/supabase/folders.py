"""Folders in the bucket of generated photos: what lies in them, and removing it; for the sweep.

Takes paths only from a listing of the folder it was asked about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.supabase.client import Project
from worker.supabase.retry import call_with_retry
from worker.supabase.storage import BUCKET, translated

PAGE = 1000
"""Entries of one listing, and objects of one removal, at most (Supabase Storage's own limit for both)."""

ONCE = 1
"""Tries of one call: the next sweep is the other one."""

BY_NAME = {"column": "name", "order": "asc"}


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object by its whole path, and its size."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing: objects, the folders beside them, and where to go on, None at the end."""

    objects: tuple[StoredObject, ...]
    folders: tuple[str, ...]
    next_offset: int | None


class Folders:
    """The bucket of generated photos as folders. Raises QueueUnavailable and Misconfigured."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def page(self, folder: str, offset: int, timeout_seconds: float) -> Page:
        """What lies in a folder, by name, from `offset` on; only what is below it, whatever Storage says."""
        options = {"limit": PAGE, "offset": offset, "sortBy": BY_NAME}

        async def attempt() -> list[dict[str, Any]]:
            with translated("list"):
                # With the slash, so that no server takes `…/1` for the beginning of `…/12` as well.
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
        """Remove objects and return those that were there; a repeat removes nothing more."""
        removed: set[str] = set()

        async def attempt() -> None:
            for start in range(0, len(objects), PAGE):
                some = [each.path for each in objects[start : start + PAGE]]
                with translated("remove"):
                    removed.update(str(gone["name"]) for gone in await self._bucket().remove(some))

        await call_with_retry(attempt, "Storage: remove", timeout_seconds, ONCE)
        return [each for each in objects if each.path in removed]

    def _bucket(self) -> Any:
        return self._project.client.storage.from_(BUCKET)


def _whole(folder: str, name: str) -> str:
    # Supabase names an entry within its folder, other servers by its whole path.
    return name if "/" in name else f"{folder}/{name}"


def _size(entry: dict[str, Any]) -> int:
    return int((entry.get("metadata") or {}).get("size") or 0)
