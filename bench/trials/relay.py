"""A TCP relay in front of Supabase that can fall silent, drip, or stop uploads halfway."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal
from urllib.parse import urlsplit

from tests.support.tcp_server import TcpServer

Fault = Literal["silent", "deaf", "drip", "no uploads"]

UPLOAD_BYTES = 2048
"""A larger piece of a request belongs to an image; all other requests are smaller."""

DRIP_BYTES, DRIP_SECONDS = 64, 0.05


class Relay(TcpServer):
    """Forwards to `target`; an async context manager. `fault` is the current fault, or None."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._connections: set[asyncio.Task[None]] = set()
        self._fault: Fault | None = None
        self._path = b""
        self._sound = asyncio.Event()
        self.repair()

    def begin(self, fault: Fault, path: str) -> None:
        """Begin a fault, on open and new connections; `deaf` ignores only calls of `path`."""
        self._fault, self._path = fault, path.encode()
        self._sound.clear()

    def repair(self) -> None:
        """Forward again, including what was held back."""
        self._fault = None
        self._sound.set()

    async def hang_up(self) -> None:
        """Close every connection, so that nothing held back arrives later."""
        for connection in self._connections:
            connection.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        upstream: asyncio.StreamWriter | None = None
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            answers, upstream = await asyncio.open_connection(self._target.hostname, self._target.port)
            pumps = {
                asyncio.ensure_future(self._pump(reader, upstream, upwards=True)),
                asyncio.ensure_future(self._pump(answers, writer, upwards=False)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
        except (ConnectionError, asyncio.CancelledError):
            return
        finally:
            self._connections.discard(task)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, upwards: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                await self._forward(data, sink, upwards)

    async def _forward(self, data: bytes, sink: asyncio.StreamWriter, upwards: bool) -> None:
        deaf = self._fault == "deaf" and upwards and self._path in data.partition(b"\r\n")[0]
        if self._fault == "silent" or deaf:
            await self._sound.wait()
        elif self._fault == "no uploads" and upwards and len(data) > UPLOAD_BYTES:
            sink.write(data[: len(data) // 2])
            data = data[len(data) // 2 :]
            await self._sound.wait()
        while self._fault == "drip" and len(data) > DRIP_BYTES:
            sink.write(data[:DRIP_BYTES])
            data = data[DRIP_BYTES:]
            await asyncio.sleep(DRIP_SECONDS)
        sink.write(data)
        await sink.drain()
