"""Signed URLs at which a browser can load photos of the private bucket; cached while valid."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from worker.errors import GenerationError
from worker.supabase.storage import PhotoStore

VALID_SECONDS = 300
FRESH_SECONDS = 120.0
"""How long a URL is reused; at least three minutes then remain to load the photo."""

MISSING_SECONDS = 15.0
"""How long a failed signing is not retried; a page polls every two seconds."""

SIGN_SECONDS = 10.0


class Gallery:
    """Caches signed URLs, so that polling pages do not sign each photo every time."""

    def __init__(self, store: PhotoStore, monotonic: Callable[[], float]) -> None:
        self._store, self._monotonic = store, monotonic
        self._signed: dict[str, tuple[float, str | None]] = {}

    async def urls(self, paths: Sequence[str]) -> dict[str, str]:
        """The signed URL of each photo; photos that cannot be signed are left out."""
        now = self._monotonic()
        self._signed = {path: kept for path, kept in self._signed.items() if now < kept[0]}
        missing = [path for path in paths if path not in self._signed]
        for path, url in zip(missing, await asyncio.gather(*map(self._sign, missing)), strict=True):
            self._signed[path] = (now + (FRESH_SECONDS if url else MISSING_SECONDS), url)
        return {path: kept[1] for path in paths if (kept := self._signed.get(path)) and kept[1]}

    async def _sign(self, path: str) -> str | None:
        try:
            return await self._store.signed_url(path, VALID_SECONDS, SIGN_SECONDS)
        except GenerationError:
            return None  # the page shows the other photos and asks again
