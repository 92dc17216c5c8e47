"""Starts, asks and ends a process that decodes photos (`worker.photos.decoder_main`)."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
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

_TYPES = ("image/jpeg", "image/png", "image/webp")
_REFUSALS = ("photo_damaged", "photo_not_an_image", "photo_too_large")
_REASON_LENGTH = 200
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="

BROKEN = (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError, RecursionError)
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
            *(sys.executable, "-W", "ignore", "-m", "worker.photos.decoder_main"),
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
        """Send a request with its bytes, and read the answer's line. Raises one of BROKEN."""
        self._requests.write(json.dumps(request).encode() + b"\n")
        for start in range(0, len(data), _PIECE_BYTES):  # the pipe keeps a copy of what is not yet read
            self._requests.write(data[start : start + _PIECE_BYTES])
            await self._requests.drain()
        most = (request["max_bytes"] + 2) // 3 * 4  # as base64
        return _checked(json.loads(await self._answers.readuntil(b"\n")), most)

    async def read(self, size: int) -> bytes:
        """The base64 after an answer's line. Raises one of BROKEN."""
        content = await self._answers.readexactly(size)
        if content.translate(None, delete=_BASE64):
            raise ValueError("the decoder's photo is not base64")
        return content

    async def kill(self) -> int:
        """End the process now; its exit code, negative for a signal."""
        if self.alive:
            self._process.kill()
        with suppress(TimeoutError):
            return await self._wait()
        return -signal.SIGKILL

    async def ended(self) -> int:
        """The exit code of a process that has closed its pipes; it is killed if it has not ended."""
        with suppress(TimeoutError):
            return await self._wait()
        return await self.kill()

    async def _wait(self) -> int:
        """Wait for the end, which asyncio reports only after everything that the process wrote was read."""
        async with asyncio.timeout(_END_SECONDS):
            while await self._answers.read(_PIECE_BYTES):
                pass
            return await self._process.wait()


def _checked(answer: object, max_size: int) -> dict[str, Any]:
    """The answer, if it is one that a decoder gives: a file may have made it execute the file's code."""
    match answer:
        case {"size": int(size), "cpu_seconds": float(seconds), "mime_type": str(mime_type)}:
            valid = 0 < size <= max_size and 0 <= seconds < math.inf and mime_type in _TYPES
        case {"refused": [str(code), str(reason)], **rest} if not rest:
            valid = code in _REFUSALS and len(reason) <= _REASON_LENGTH and reason.isprintable()
        case {"failed": str(), **rest} | {"larger": int(), **rest} if not rest:
            valid = True
        case _:
            valid = False
    if not valid:
        raise ValueError("the answer is not one that a decoder gives")
    return cast("dict[str, Any]", answer)


def _environment() -> dict[str, str]:
    """One memory arena instead of one per thread, so that the limit of memory counts what is used."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return passed_on | {"PYTHONPATH": paths, "MALLOC_ARENA_MAX": "1", "PYTHONDONTWRITEBYTECODE": "1"}
