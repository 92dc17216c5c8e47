"""Starts, asks and ends a process that decodes photos (`worker.photos.decoder`)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

_PIECE_BYTES = 262_144
_ANSWER_LINE_BYTES = 65_536
_END_SECONDS = 5.0
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR", "LANG")
"""Variables of the worker that a decoder gets: none of them is a secret."""

BROKEN = (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError)
"""What asking a decoder raises that has ended, or that does not answer as it should."""


class DecoderProcess:
    """One decoder; `usable` means that it waits for another photo."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        requests: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
    ) -> None:
        self.usable = False
        self._process = process
        self._requests = requests
        self._answers = answers

    @classmethod
    async def start(cls) -> DecoderProcess:
        """Start a decoder in a session of its own, so that Ctrl-C in a terminal does not reach it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-m", "worker.photos.decoder"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # where libraries complain about each damaged photo
            pipesize=_PIECE_BYTES,  # with the usual 64 kB a photo takes four times as many turns
            limit=_ANSWER_LINE_BYTES,
            start_new_session=True,
            env=_environment(),
        )
        requests, answers = process.stdin, process.stdout
        return cls(process, cast("asyncio.StreamWriter", requests), cast("asyncio.StreamReader", answers))

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.returncode is None

    async def ask(self, request: Mapping[str, Any], data: bytes) -> dict[str, Any]:
        """Send a request with its bytes, and read the answer's line."""
        self._requests.write(json.dumps(request).encode() + b"\n")
        for start in range(0, len(data), _PIECE_BYTES):  # the pipe keeps a copy of what is not yet read
            self._requests.write(data[start : start + _PIECE_BYTES])
            await self._requests.drain()
        answer: dict[str, Any] = json.loads(await self._answers.readuntil(b"\n"))
        return answer

    async def read(self, size: int) -> bytes:
        """The bytes after an answer's line."""
        return await self._answers.readexactly(size)

    async def kill(self) -> int:
        """End the process now; its exit code, negative for a signal."""
        if self.alive:
            self._process.kill()
        return await self._process.wait()

    async def ended(self) -> int:
        """The exit code of a process that has closed its pipes; it is killed if it has not ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                return await self._process.wait()
        return await self.kill()


def _environment() -> dict[str, str]:
    """One memory arena instead of one per thread, so that the limit of memory counts what is used."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return passed_on | {"PYTHONPATH": paths, "MALLOC_ARENA_MAX": "1", "PYTHONDONTWRITEBYTECODE": "1"}
