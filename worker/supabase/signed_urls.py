"""Addresses at which a browser may read photos of the private bucket, kept while they last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from worker.errors import GenerationError
from worker.supabase.storage import PhotoStore

VALID_SECONDS = 300
FRESH_SECONDS = 120.0
"""An address is given out again for so long: whoever gets it has three minutes to load the photo."""

MISSING_SECONDS = 15.0
"""So long a photo without an address stays without: a page that asks every two seconds costs no more."""

SIGN_SECONDS = 10.0


class Gallery:
    """Signs each photo once in a while, however often a page asks."""

    def __init__(self, store: PhotoStore, monotonic: Callable[[], float]) -> None:
        self._store, self._monotonic = store, monotonic
        self._signed: dict[str, tuple[float, str | None]] = {}

    async def urls(self, paths: Sequence[str]) -> dict[str, str]:
        """The address of each photo; none for one that cannot be signed."""
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
            return None  # The page shows the rest, and asks again.
