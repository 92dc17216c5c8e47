"""A copy of the clone in hostile surroundings, and the commands of `local` run in it as people run them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("main.py", "worker", "local", "sql", "docs")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "node_modules")


class Trap:
    """A port on loopback that nothing should connect to; `sprung` counts the connections."""

    def __init__(self) -> None:
        self.sprung = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.sprung += 1
            connection.close()

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@dataclass(frozen=True, slots=True)
class Clone:
    """The copy, and an environment in which every variable that could matter leads into the trap."""

    folder: Path
    trap: Trap

    @property
    def hostile(self) -> dict[str, str]:
        """The five variables of the worker, and those that libraries read by themselves."""
        url = self.trap.url
        worker = {
            "SUPABASE_URL": url,
            "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_of-a-real-project",
            "GEMINI_API_KEY": "a-key-that-costs-money",
            "GEMINI_MODEL_NAME": "gemini-of-somebody-else",
            "WORKER_ID": "not a worker id",
        }
        proxies = {f"{scheme}_proxy": url for scheme in ("http", "https", "all")}
        others = {
            "GOOGLE_GEMINI_BASE_URL": url,
            "GOOGLE_GENAI_USE_VERTEXAI": "true",
            "GOOGLE_API_KEY": "another-key-that-costs-money",
            "INVOCATION_TIMEOUT_SECONDS": "never",
            "K_SERVICE": "production",
            "FUNCTION_TARGET": "nothing",
            "PGHOST": "192.0.2.1",
            "PGUSER": "nobody-knows",
        }
        return worker | proxies | {name.upper(): value for name, value in proxies.items()} | others

    @contextmanager
    def running(self, *command: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """A running `python -m local …`, with stdout to read; killed at the end if necessary."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-m", "local", *command],
            cwd=self.folder,
            env={**kept, **self.hostile, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def run(self, *command: str, **variables: str) -> tuple[int, str, str]:
        """The exit status, stdout and stderr of `python -m local …`."""
        with self.running(*command, **variables) as process:
            out, err = process.communicate(timeout=90)
        return process.returncode, out, err


def read_until(process: subprocess.Popen[str], start: str) -> str:
    """The next line of stdout that begins so, without its beginning; fails when the process ends before."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line.removeprefix(start).strip()
    raise AssertionError(f"no line {start!r}")


def descendants(pid: int) -> list[int]:
    """All processes that the process has started, and those that they have."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, found.splitlines())}
    below = [child for child, parent in parents.items() if parent == pid]
    return below + [each for child in below for each in descendants(child)]


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Asks again until the condition is true; fails after the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not happened in time"
        time.sleep(0.02)


@contextmanager
def cloned(folder: Path) -> Iterator[Clone]:
    """The copy, made in an empty folder, with a hostile `.env` in it."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=NOT_COPIED)
        else:
            shutil.copy(ROOT / name, folder)
    (folder / "local/npm/node_modules").symlink_to(ROOT / "local/npm/node_modules")
    trap = Trap()
    copy = Clone(folder, trap)
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in copy.hostile.items()))
    yield copy
    trap.close()


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """One copy for all tests."""
    with cloned(tmp_path_factory.mktemp("clone")) as copy:
        yield copy
