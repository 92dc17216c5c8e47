"""What lies in the bucket of generated photos, asked of the Storage API; and the sweeper's turn."""

from __future__ import annotations

from collections.abc import Iterable

import httpx

from bench.site import Site

BUCKET = "generated-photos"


class Objects:
    """The objects in the folders of jobs."""

    def __init__(self, site: Site, folders: Iterable[str]) -> None:
        self._site, self._folders = site, sorted(folders)

    def paths(self) -> set[str]:
        """The paths of all objects, by listing every job's folder."""
        headers = {"apikey": self._site.stack.secret_key}
        with httpx.Client(base_url=self._site.stack.url, headers=headers, timeout=30, trust_env=False) as api:
            return {path for folder in self._folders for path in self._list(api, folder)}

    def sweep(self) -> bool:
        """Lets the sweeper remove what has no row; False while there is none."""
        return False

    def _list(self, api: httpx.Client, folder: str) -> list[str]:
        body = {"prefix": f"{folder}/", "limit": 1000, "offset": 0}
        answer = api.post(f"/storage/v1/object/list/{BUCKET}", json=body).raise_for_status().json()
        # Supabase names an object within its folder, other servers by its whole path.
        return [f"{folder}/{entry['name'].rsplit('/', 1)[-1]}" for entry in answer]
