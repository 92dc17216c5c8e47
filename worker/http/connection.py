"""How many connections may hold a file descriptor of ours, and for how long.

Needed where Google's front end is not before us.

uvicorn bounds an idle connection only. A head sent byte by byte, a body that goes on after the answer, or an
answer that is never read would hold one for as long as the caller likes, and there may be a thousand of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""From a connection's beginning, or its last answer, to the end of the next request's headers."""

READ_SECONDS = 30.0
"""For the caller to take what waits for it, when that fills the buffer (64 KiB), and when we hang up. The
largest answers have a few hundred KiB."""

MAX_CONNECTIONS = 256
"""Of a process, whose runs need file descriptors too, often out of 1024; those beyond are answered 503."""

TURNED_AWAY_SECONDS = 1.0
"""For the caller to read that answer: who sends on to a closed connection may lose what was sent to it."""

_BODY = (
    b'{"error":{"code":"too_many_connections","message":"the server has as many connections as it may have",'
    b'"hint":"try again later"}}\n'
)
_TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 10\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class BoundedConnection(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with an end for whoever does not send or does not read.

    A request that has begun has bounds of its own: `BODY_SECONDS`, and the run's deadlines.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request, unless there are too many connections."""
        self._head, self._reader = _Timer(self.loop), _Timer(self.loop)
        super().connection_made(transport)
        self._turned_away = len(self.connections) > MAX_CONNECTIONS
        if self._turned_away:
            self._turn_away()
        else:
            self._head.start(HEAD_SECONDS, self._hang_up)

    def data_received(self, data: bytes) -> None:
        """Read what has arrived, unless it is nothing to us any more."""
        if not self._turned_away:
            super().data_received(data)

    def handle_events(self) -> None:
        """Read what has arrived, and expect no other head while a request is being answered."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._head.stop()

    def on_response_complete(self) -> None:
        """Expect the next request, which may have arrived already."""
        self._head.start(HEAD_SECONDS, self._hang_up)
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Expect the caller to read."""
        super().pause_writing()
        self._reader.start(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Expect no more reading: there is room again."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._reader.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._head.stop()
        self._reader.stop()
        super().connection_lost(exc)

    def _turn_away(self) -> None:
        if len(self.connections) > 2 * MAX_CONNECTIONS:  # so many come that not even an answer is for all
            self.transport.abort()
            return
        self.transport.write(_TURNED_AWAY)
        self.transport.write_eof()
        self._reader.start(TURNED_AWAY_SECONDS, self.transport.abort)

    def _hang_up(self) -> None:
        self.transport.close()  # at once, or when the caller has read its last answer
        self._reader.start(READ_SECONDS, self.transport.abort)


class _Timer:
    """Calls something later, unless it is stopped or started again."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float, action: Callable[[], None]) -> None:
        self.stop()
        self._handle = self._loop.call_later(seconds, action)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
