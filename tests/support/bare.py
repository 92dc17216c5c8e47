"""A checkout with a virtual environment that has what requirements.txt names and no package for tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKED_OUT = ("main.py", "worker", "sql", "requirements.txt", ".env.example")
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
SECONDS = 300.0


def blocks(kind: str) -> list[str]:
    """The blocks of docs/vm.md of one kind, in their order."""
    return [text for info, text in FENCE.findall((ROOT / "docs" / "vm.md").read_text()) if info == kind]


@dataclass(frozen=True, slots=True)
class Checkout:
    """The folder; its commands see the test's machine but no developer's packages."""

    folder: Path

    @property
    def bin(self) -> Path:
        """The folder of its programs."""
        return self.folder / ".venv" / "bin"

    def environment(self, **changes: str) -> dict[str, str]:
        """For a shell in it: `python` is the Python of the tests until .venv is activated."""
        path = f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **changes}

    def run(self, script: str, **environment: str) -> str:
        """The output of a script, run as if pasted into a shell; it must succeed."""
        done = subprocess.run(
            ["/bin/bash", "-euc", script], cwd=self.folder, env=self.environment(**environment),
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout set up as docs/vm.md says, once for all tests."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in CHECKED_OUT:
        (folder / name).symlink_to(ROOT / name)
    made = Checkout(folder)
    for text in blocks("sh here"):
        made.run(text)
    return made
