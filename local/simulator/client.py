"""The client of one request: whether it is still there, and the ways to leave it without an answer."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol


class OpenProtocol(H11Protocol):
    """HTTP/1.1 that hands each request its transport: ASGI has no word for closing without an answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the transport into every scope's state."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class Client:
    """Watches one request's client; to be entered once the request's body has been read."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._transport: asyncio.Transport = scope["state"]["transport"]
        self._receive = receive
        self._send = send

    async def __aenter__(self) -> Client:
        self._gone = asyncio.ensure_future(self._until_gone())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gone.cancel()

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    @property
    def gone(self) -> bool:
        """Whether the client has closed the connection."""
        return self._gone.done()

    async def stays(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Do the work while the client is connected; if it leaves first, cancel it and return False."""
        task = asyncio.ensure_future(work)
        await asyncio.wait({task, self._gone}, return_when=asyncio.FIRST_COMPLETED)
        if not self.gone:
            await task
            return True
        task.cancel()
        return False

    async def leave(self, reset: bool) -> None:
        """Close the connection at once: with RST if `reset`, else with FIN; return when it is closed."""
        if reset:
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        await self._gone

    async def start(self, status: int, media_type: str, length: int) -> None:
        """Send the status line and headers."""
        headers = [(b"content-type", media_type.encode()), (b"content-length", str(length).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes, more: bool = False) -> None:
        """Send a piece of the body, the last one unless `more`."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
