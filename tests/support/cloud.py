"""Shell of the deployment, run against a project of Google Cloud that is one file (gcloud_stand_in.py)."""

from __future__ import annotations

import marshal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "project-1"
KILL_AFTER_SECONDS = 120
FRESH: dict[str, Any] = {
    "signedIn": ["somebody@example.com"], "billing": ["True"], "apis": [], "accounts": [], "rights": {},
    "repositories": [],
    "buckets": [], "secrets": {}, "services": {}, "jobs": {}, "failing": [], "shy": 0, "calls": [],
}  # fmt: skip
"""A new project: nothing but an owner and a bill. `shy` is how often a grant is refused to a new account."""

VALUES = {
    "SUPABASE_URL": "https://canary-url.supabase.co",
    "SUPABASE_ANON_KEY": "sb_publishable_canary",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_canary",
    "GEMINI_API_KEY": "gemini-canary",
    "WORKER_SECRET": "worker-secret-canary",
    "OPERATOR_SECRET": "operator-secret-canary",
}
DOT_ENV = "# comment\n\n" + "".join(f"{name}={value}\n" for name, value in VALUES.items())

STAND_IN = (  # imported, it is compiled once and not at each call
    f'import sys; sys.path.insert(0, "{ROOT}/tests/support"); import gcloud_stand_in; '
    "sys.exit(gcloud_stand_in.main())"
)
READING = ("list", "describe", "get-iam-policy", "read")
NOTHING: Mapping[str, str] = MappingProxyType({})


class Done(NamedTuple):
    """A script's output, its exit code, and the gcloud commands that it ran."""

    code: int
    out: str
    calls: list[dict[str, Any]]

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of each call of gcloud."""
        return [call["argv"] for call in self.calls]

    @property
    def changes(self) -> list[list[str]]:
        """Those that change something."""
        return [argv for argv in self.commands if not any(word in argv for word in READING)]

    @property
    def doors(self) -> list[tuple[str, bool, bool]]:
        """Service, whether everybody gets in, whether what answers believes any token; as time went by."""
        return [(name, opened, trusts) for call in self.calls for name, opened, trusts in call["doors"]]


class StandInCloud:
    """A project, and a place on PATH where its `gcloud` is."""

    def __init__(self, folder: Path, **differences: Any) -> None:
        self.folder = folder
        self._file = folder / "project"
        self._file.write_bytes(marshal.dumps({**FRESH, **differences}))
        programs = folder / "bin"
        programs.mkdir(exist_ok=True)
        gcloud = programs / "gcloud"
        gcloud.write_text(f"#!/bin/sh\nexec '{sys.executable}' -ISc '{STAND_IN}' \"$@\"\n")
        gcloud.chmod(0o755)
        curl = programs / "curl"  # the image registries, of which deploy/pin.sh asks for digests
        curl.write_text("#!/bin/sh\nprintf 'HTTP/2 200\\r\\ndocker-content-digest: sha256:%064d\\r\\n' 7\n")
        curl.chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(folder),
            "GCLOUD_STAND_IN": str(self._file),
            "BOOTSTRAP_WAIT_SECONDS": "0",
        }

    @property
    def state(self) -> dict[str, Any]:
        """The project now."""
        found: dict[str, Any] = marshal.loads(self._file.read_bytes())
        return found

    def change(self, **differences: Any) -> None:
        """Change the project as another person would."""
        self._file.write_bytes(marshal.dumps({**self.state, **differences}))

    def run(
        self, command: list[str], folder: Path, stdin: str = "", environment: Mapping[str, str] = NOTHING
    ) -> Done:
        """Run a command in a folder, with only this environment and the one given."""
        before = len(self.state["calls"])
        done = subprocess.run(
            command,
            cwd=folder,
            env={**self.environment, **environment},
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=KILL_AFTER_SECONDS,
        )
        return Done(done.returncode, done.stdout, self.state["calls"][before:])


def bootstrap(cloud: StandInCloud, *arguments: str, stdin: str = "") -> Done:
    """Run deploy/bootstrap.sh for the project."""
    script = str(ROOT / "deploy" / "bootstrap.sh")
    return cloud.run(["/bin/bash", script, "--project", PROJECT, *arguments], cloud.folder, stdin)
