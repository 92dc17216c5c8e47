"""The objects in the bucket of generated photos, listed by the Storage API; and the sweep."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable

import httpx

from bench.harness.site import Site
from local.demo.environment import kept
from local.demo.simulation import ROOT
from local.stack.errors import StackError

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

    def sweep(self) -> None:
        """Let `python -m worker sweep` remove the objects without a row.

        It checks only folders of jobs that ended at least ten minutes ago, so all end times are moved back.
        """
        self._site.stack.psql(
            'update photo_generation_queue set "completedAt" = "completedAt" - interval \'11 minutes\''
        )
        environment = {
            **kept(),
            "PYTHONPATH": str(ROOT),
            "SUPABASE_URL": self._site.stack.url,
            "SUPABASE_SERVICE_ROLE_KEY": self._site.stack.secret_key,
        }
        command = [sys.executable, "-m", "worker", "--no-env-file", "sweep"]
        while True:
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise StackError("The sweeper failed:", "Its log says why.", done.stderr)
            if not json.loads(done.stdout)["more"]:
                return

    def _list(self, api: httpx.Client, folder: str) -> list[str]:
        body = {"prefix": f"{folder}/", "limit": 1000, "offset": 0}
        answer = api.post(f"/storage/v1/object/list/{BUCKET}", json=body).raise_for_status().json()
        # Supabase returns names relative to the folder, other servers full paths.
        return [f"{folder}/{entry['name'].rsplit('/', 1)[-1]}" for entry in answer]
