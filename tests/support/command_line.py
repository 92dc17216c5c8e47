"""The command line, in this process or in its own, against the local stack and the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.support.logging_fixtures import logging_restored
from tests.support.runs import KEY, Site, process_environment
from worker.cli.main import read_arguments, run_command

ROOT = Path(__file__).resolve().parents[2]
KILL_AFTER_SECONDS = 60.0
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
        """Its stderr: an error without a traceback, and nothing on stdout."""
        assert (self.code, self.out) == (code, ""), self
        return self.log


@contextlib.asynccontextmanager
async def killed_at_end(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """Kill the process at the end of the context if it is still running."""
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Program:
    """A running command; its log is JSON."""

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

    async def ended(self) -> int:
        """Its exit code after it has ended, with nothing on stdout and no traceback.

        It has 8 s after a signal, and what a busy machine adds; left to itself it would take minutes.
        """
        async with asyncio.timeout(25.0):
            out, log = await self.process.communicate()
        assert out == b"", out
        assert b"Traceback" not in log, log.decode()
        assert self.process.returncode is not None
        return self.process.returncode


def _default_signals() -> None:
    """Undo what a shell does to a job in the background: SIGINT ignored would stay so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class CommandLine:
    """`python -m worker` in an empty folder with the settings of a site, and only those."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.environment = {
            **process_environment(site.stack, site.gemini),
            "PYTHONPATH": str(ROOT),
            "WORKER_ID": "cli",
        }

    async def call(self, *arguments: str, stdin: bytes = b"", env: Changes = MappingProxyType({})) -> Done:
        """Run a command to its end in this process; no secret may be written. In `env`, None is no variable.

        Starting a process takes ten times as long; `tests/cli/test_processes.py` shows that it is the same.
        """
        with self._pretended_process(env, stdin) as (out, log):
            async with asyncio.timeout(KILL_AFTER_SECONDS):
                try:
                    code = await run_command(read_arguments(arguments))
                except SystemExit as ended:
                    assert isinstance(ended.code, int)
                    code = ended.code
            return self._checked(code, out.getvalue(), log.getvalue())

    async def process(self, *arguments: str, stdin: bytes = b"", env: Changes = MappingProxyType({})) -> Done:
        """Run a command to its end in its own process."""
        async with self._process(arguments, env) as process:
            async with asyncio.timeout(KILL_AFTER_SECONDS):
                out, log = await process.communicate(stdin)
        assert process.returncode is not None
        return self._checked(process.returncode, out, log)

    def _checked(self, code: int, out: bytes, log: bytes) -> Done:
        done = Done(code, out.decode(), log.decode())
        for secret in (KEY, self.site.stack.secret_key):
            assert secret not in done.out + done.log
        assert "Traceback" not in done.log, done.log
        return done

    @contextlib.contextmanager
    def _pretended_process(self, changes: Changes, stdin: bytes) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
        """What a process has of its own: folder, variables, streams and log; yields stdout and stderr."""
        out, log, before = io.BytesIO(), io.BytesIO(), dict(os.environ)
        usual = sys.stdin
        with (
            contextlib.chdir(self.folder),
            logging_restored(),
            contextlib.redirect_stdout(io.TextIOWrapper(out, "utf-8", write_through=True)),
            contextlib.redirect_stderr(io.TextIOWrapper(log, "utf-8", write_through=True)),
        ):
            os.environ.clear()
            os.environ.update(self._variables(changes))
            sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
            try:
                yield out, log
            finally:
                sys.stdin = usual
                os.environ.clear()
                os.environ.update(before)

    def _variables(self, changes: Changes) -> dict[str, str]:
        changed = {**self.environment, **changes}
        return {name: value for name, value in changed.items() if value is not None}

    @contextlib.asynccontextmanager
    async def start(self, *arguments: str, env: Changes = MappingProxyType({})) -> AsyncIterator[Program]:
        """Start a command; it is killed if it outlives the block."""
        async with self._process(arguments, {"LOG_FORMAT": "json", **env}) as process:
            yield Program(process)

    @contextlib.asynccontextmanager
    async def _process(
        self, arguments: tuple[str, ...], changes: Changes
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "worker", *arguments),
            cwd=self.folder,
            env=self._variables(changes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=_default_signals,
        )
        async with killed_at_end(process):
            yield process


@pytest.fixture
def cli(site: Site, tmp_path: Path) -> CommandLine:
    """The command line of the site's operator, in its own folder."""
    return CommandLine(site, tmp_path)
