"""A TCP proxy in front of an HTTP server: a test can cut it, stall it at a path, or lose an answer."""

from __future__ import annotations

import asyncio
import contextlib
import re
from urllib.parse import urlsplit

from tests.support.tcp_server import TcpServer

REQUEST_LINE = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|PATCH) (\S+) HTTP/1\.1\r\n")


class Gate:
    """Stops requests whose path contains a text, until it is opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._reached = asyncio.Event()
        self._open = asyncio.Event()

    async def reached(self, seconds: float = 60.0) -> None:
        """Wait until a request waits at the gate."""
        async with asyncio.timeout(seconds):
            await self._reached.wait()

    def open(self) -> None:
        """Let everything through, what waits and what will come."""
        self._open.set()

    async def pass_through(self) -> None:
        """Wait until it is open."""
        self._reached.set()
        await self._open.wait()


class Proxy(TcpServer):
    """Forwards to `target`; an async context manager. `paths` has the paths of all requests so far.

    A request must begin a chunk of its own, as with clients that send one after the other.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._gates: list[Gate] = []
        self._cut_at: str | None = None
        self._lose = ""
        self._losses = 0
        self._is_cut = False
        self._connections: set[_Connection] = set()
        self.paths: list[str] = []

    async def hang_up(self) -> None:
        """Close all connections."""
        self.cut()

    def gate(self, path: str) -> Gate:
        """Stop requests whose path contains `path`; returns the gate that lets them through."""
        self._gates.append(Gate(path))
        return self._gates[-1]

    def lose_answer(self, path: str, times: int = 1) -> None:
        """Forward the next requests whose path contains `path`, and close their connections unanswered."""
        self._lose, self._losses = path, times

    def cut_at(self, path: str) -> None:
        """Cut everything as soon as a request whose path contains `path` comes; it is not forwarded."""
        self._cut_at = path

    def cut(self) -> None:
        """Close all connections, and every new one at once."""
        self._is_cut = True
        for connection in list(self._connections):
            connection.close()

    def repair(self) -> None:
        """Forward again."""
        self._is_cut, self._cut_at = False, None

    async def admit(self, path: str, connection: _Connection) -> bool:
        """Record a request and apply the test's faults; False if it is not forwarded."""
        self.paths.append(path)
        if self._cut_at and self._cut_at in path:
            self.cut()
            return False
        for gate in self._gates:
            if gate.path in path:
                await gate.pass_through()
        if self._losses and self._lose in path:
            self._losses -= 1
            connection.loses_answer = True
        return not self._is_cut

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        if self._is_cut:
            writer.transport.abort()
            return
        upstream = await asyncio.open_connection(self._target.hostname, self._target.port)
        connection = _Connection(self, (reader, writer), upstream)
        self._connections.add(connection)
        try:
            await connection.forward()
        finally:
            self._connections.discard(connection)


class _Connection:
    """One client's connection and the one behind it."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self.loses_answer = False

    async def forward(self) -> None:
        """Forward both ways until one side closes."""
        pumps = [asyncio.ensure_future(self._requests()), asyncio.ensure_future(self._answers())]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self.close()

    def close(self) -> None:
        """Drop both connections."""
        for _, writer in (self._client, self._server):
            writer.transport.abort()

    async def _requests(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self._client[0].read(1 << 16):
                line = REQUEST_LINE.match(data)
                if line and not await self._proxy.admit(line[1].decode(), self):
                    return
                self._server[1].write(data)
                await self._server[1].drain()

    async def _answers(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self._server[0].read(1 << 16):
                if self.loses_answer:
                    return
                self._client[1].write(data)
                await self._client[1].drain()
