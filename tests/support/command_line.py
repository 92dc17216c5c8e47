"""The command line as a process of its own, against the local stack and the simulator.

A pytest plugin that tests import from as well, hence PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.support.runs import KEY, Site, process_environment

ROOT = Path(__file__).resolve().parents[2]
KILL_AFTER_SECONDS = 30.0
Changes = Mapping[str, str | None]


class Done(NamedTuple):
    """A command that has ended: its exit code and what it wrote."""

    code: int
    out: str
    log: str

    @property
    def json(self) -> Any:
        """stdout, which must be one line of JSON and nothing else."""
        assert self.out.count("\n") == 1, self
        return json.loads(self.out)

    def complained(self, code: int) -> str:
        """What it wrote to stderr: a complaint without a traceback, and nothing on stdout."""
        assert (self.code, self.out) == (code, ""), self
        return self.log


class Program:
    """A command that goes on; its log is JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def logged(self, event: str, **fields: object) -> dict[str, Any]:
        """The next record of an event with these fields, waited for."""
        assert self.process.stderr is not None
        async with asyncio.timeout(KILL_AFTER_SECONDS):
            async for line in self.process.stderr:
                record: dict[str, Any] = json.loads(line)
                if record["message"] == event and fields.items() <= record.items():
                    return record
        raise AssertionError(f"it ended without {event} {fields}")

    async def ended(self, seconds: float = 12.0) -> int:
        """Its exit code, once it has ended by itself: with nothing on stdout and no traceback."""
        async with asyncio.timeout(seconds):
            out, log = await self.process.communicate()
        assert out == b"", out
        assert b"Traceback" not in log, log.decode()
        assert self.process.returncode is not None
        return self.process.returncode


def _default_signals() -> None:
    """Undo what a shell does to a job in the background: SIGINT ignored would stay so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class CommandLine:
    """Runs `python -m worker` in an empty folder with the settings of a site, and only those."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.environment = {
            **process_environment(site.stack, site.gemini),
            "PYTHONPATH": str(ROOT),
            "WORKER_ID": "cli",
        }

    async def call(self, *arguments: str, stdin: bytes = b"", env: Changes = MappingProxyType({})) -> Done:
        """Run a command to its end; no secret may be written. In `env`, None takes a variable away."""
        async with self._process(arguments, env) as process:
            async with asyncio.timeout(KILL_AFTER_SECONDS):
                out, log = await process.communicate(stdin)
        assert process.returncode is not None
        done = Done(process.returncode, out.decode(), log.decode())
        for secret in (KEY, self.site.stack.secret_key):
            assert secret not in done.out + done.log
        assert "Traceback" not in done.log, done.log
        return done

    @contextlib.asynccontextmanager
    async def start(self, *arguments: str, env: Changes = MappingProxyType({})) -> AsyncIterator[Program]:
        """Start a command; it is killed if it outlives the block."""
        async with self._process(arguments, {"LOG_FORMAT": "json", **env}) as process:
            yield Program(process)

    @contextlib.asynccontextmanager
    async def _process(
        self, arguments: tuple[str, ...], changes: Changes
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        changed = {**self.environment, **changes}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "worker", *arguments),
            cwd=self.folder,
            env={name: value for name, value in changed.items() if value is not None},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=_default_signals,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture
def cli(site: Site, tmp_path: Path) -> CommandLine:
    """The command line of the site's operator, in a folder of its own."""
    return CommandLine(site, tmp_path)
