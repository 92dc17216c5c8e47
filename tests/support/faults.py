"""An HTTP proxy that injects a fault of networks or gateways into chosen requests.

It reads a request whole, forwards it on a new connection, and closes both after the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from tests.support.tcp_server import TcpServer

REQUEST = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CONNECTION = re.compile(rb"\r\nconnection: [^\r]*", re.IGNORECASE)
PIECES = 20


class Exchange:
    """One request at the proxy: its bytes, the client that waits, and the way to the server."""

    def __init__(
        self, proxy: FaultProxy, request: bytes, client: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    ) -> None:
        self.proxy, self.request = proxy, request
        self._reader, self._writer = client

    async def forward(self) -> bytes:
        """Send the request to the server; its whole answer, headers and all."""
        return await self.proxy.ask(self.request)

    async def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """End the connection; where an answer is not complete, it ends too early."""
        self._writer.close()

    def reset(self) -> None:
        """Tear the connection down with an RST."""
        if sock := self._writer.get_extra_info("socket"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client has given up."""
        with contextlib.suppress(ConnectionError):
            await self._reader.read()


Fault = Callable[[Exchange], Awaitable[None]]


async def nothing(exchange: Exchange) -> None:
    """No fault: the request goes through, the answer comes back."""
    await exchange.send(await exchange.forward())


async def reset(exchange: Exchange) -> None:
    """The connection is reset before the request reaches the server."""
    exchange.reset()


async def stall(exchange: Exchange) -> None:
    """The request is not forwarded, and not answered."""
    await exchange.gone()


async def half_answer(exchange: Exchange) -> None:
    """The server does its work; the connection ends in the middle of its answer."""
    answer = await exchange.forward()
    await exchange.send(answer[: len(answer) // 2])


async def answer_lost(exchange: Exchange) -> None:
    """The server does its work; the connection is reset before any of its answer arrives."""
    await exchange.forward()
    exchange.reset()


async def duplicate(exchange: Exchange) -> None:
    """The request reaches the server twice at once; the client gets the later answer."""
    both = [asyncio.ensure_future(exchange.forward()) for _ in range(2)]
    *_, last = [await answer for answer in asyncio.as_completed(both)]
    await exchange.send(last)


async def late_duplicate(exchange: Exchange) -> None:
    """The request reaches the server a second time when the run is long over."""
    await nothing(exchange)
    exchange.proxy.late.append(exchange.request)


async def drip(exchange: Exchange) -> None:
    """The answer arrives in small pieces."""
    answer = await exchange.forward()
    size = len(answer) // PIECES + 1
    for start in range(0, len(answer), size):
        await exchange.send(answer[start : start + size])
        await asyncio.sleep(0.01)


async def trickle(exchange: Exchange) -> None:
    """The answer arrives byte by byte and would take minutes, never silent for long."""
    for byte in await exchange.forward():
        await exchange.send(bytes([byte]))
        await asyncio.sleep(0.2)


async def unavailable(exchange: Exchange) -> None:
    """A 503 in JSON, with the fields of PostgREST's errors and of Storage's."""
    await exchange.send(_answer("503 Service Unavailable", "application/json", json.dumps(UNAVAILABLE)))


async def bad_gateway(exchange: Exchange) -> None:
    """A proxy's own page instead of an answer."""
    page = "<html><head><title>502 Bad Gateway</title></head><body><h1>502</h1></body></html>"
    await exchange.send(_answer("502 Bad Gateway", "text/html", page))


def refusal(status: str, body: object) -> Fault:
    """A refusal of the gateway or a service: its body as JSON, or text as it is."""

    async def refuse(exchange: Exchange) -> None:
        if isinstance(body, str):
            await exchange.send(_answer(status, "text/html", body))
        else:
            await exchange.send(_answer(status, "application/json", json.dumps(body)))

    return refuse


UNAVAILABLE: Mapping[str, str | None] = {
    "code": "PGRST001",
    "message": "Database client error. Retrying the connection.",
    "details": None,
    "hint": None,
    "statusCode": "503",
    "error": "DatabaseTimeout",
}


def _answer(status: str, kind: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\n\r\n{body}".encode()


class FaultProxy(TcpServer):
    """Forwards to `target`; an async context manager. Requests are named like `POST /rest/v1/rpc/…`.

    `seen` has all requests so far, `struck` counts those that met the fault.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._pattern: re.Pattern[str] | None = None
        self._fault: Fault = nothing
        self._times = 0
        self._serving: set[asyncio.Task[None]] = set()
        self.late: list[bytes] = []
        self.seen: list[str] = []
        self.struck = 0

    async def hang_up(self) -> None:
        """Cancel what is still being served."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def inject(self, fault: Fault, request: str, times: int = 1) -> None:
        """Do this to the next requests that match the regular expression."""
        self._fault, self._pattern, self._times = fault, re.compile(request), times

    async def deliver_late(self) -> None:
        """Forward the requests that were held back until after the run."""
        for request in self.late:
            await self.ask(request)
        self.late.clear()

    async def ask(self, request: bytes) -> bytes:
        """The server's whole answer to a request."""
        reader, writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection in a task that `hang_up` can cancel."""
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await _read(reader)
            exchange = Exchange(self, request, (reader, writer))
            try:
                await self._choose(request)(exchange)
            finally:
                exchange.close()

    def _choose(self, request: bytes) -> Fault:
        line = REQUEST.match(request)
        assert line, request[:80]
        self.seen.append(f"{line[1].decode()} {line[2].decode()}")
        if not self._times or self._pattern is None or not self._pattern.match(self.seen[-1]):
            return nothing
        self._times -= 1
        self.struck += 1
        return self._fault


async def _read(reader: asyncio.StreamReader) -> bytes:
    """A whole request, changed to ask for the connection to be closed after its answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    body = await reader.readexactly(int(length[1])) if length else b""
    return CONNECTION.sub(b"", head)[:-4] + b"\r\nConnection: close\r\n\r\n" + body
