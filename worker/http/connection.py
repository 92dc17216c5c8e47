"""Limits the number of connections and their duration, since each one holds a file descriptor.

Google's front end does this on Cloud Run; elsewhere the server must. uvicorn limits idle connections only:
a client that sends its headers byte by byte, goes on sending its body after the response, or never reads the
response would hold a connection forever, and a process often has 1024 file descriptors only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""From the start of a connection, or its last response, to the end of the next request's headers."""

READ_SECONDS = 30.0
"""How long the client may take to read, once the write buffer (64 KiB) is full or the server closes the
connection. The largest responses have a few hundred KiB."""

MAX_CONNECTIONS = 256
"""Per process, which often has 1024 file descriptors and needs some for its runs. The others get a 503."""

TURNED_AWAY_SECONDS = 1.0
"""How long the client may take to read that 503, which could get lost if the connection closed at once."""

_BODY = (
    b'{"error":{"code":"too_many_connections","message":"the server has reached its limit of connections",'
    b'"hint":"try again later"}}\n'
)
_TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 10\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class BoundedConnection(H11Protocol):
    """uvicorn's HTTP/1.1, with timeouts for a client that does not send or does not read.

    A request in progress has limits of its own: `BODY_SECONDS`, and the run's deadlines.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, or refuse the connection if there are too many."""
        self._head, self._reader = _Timer(self.loop), _Timer(self.loop)
        super().connection_made(transport)
        self._turned_away = len(self.connections) > MAX_CONNECTIONS and not self._replace_waiting()
        if self._turned_away:
            self._turn_away()
        else:
            self._head.start(HEAD_SECONDS, self._hang_up)

    def data_received(self, data: bytes) -> None:
        """Parse the received bytes; ignore those of a refused connection."""
        if not self._turned_away:
            super().data_received(data)

    def handle_events(self) -> None:
        """Process the received events; stop the header timeout while a request is being answered."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._head.stop()

    def on_response_complete(self) -> None:
        """Wait for the next request, which may have arrived already."""
        self._head.start(HEAD_SECONDS, self._hang_up)
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The write buffer is full: start the read timeout."""
        super().pause_writing()
        self._reader.start(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The write buffer has room again: stop the read timeout."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._reader.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both timeouts."""
        self._head.stop()
        self._reader.stop()
        super().connection_lost(exc)

    @property
    def _awaits_request(self) -> bool:
        """Whether the client has sent no request, or not all of it, and has read every response."""
        if self.cycle is not None and not self.cycle.response_complete:
            return self.cycle.more_body
        return self._head.runs and not self.transport.get_write_buffer_size()

    def _replace_waiting(self) -> bool:
        """Close the connection that has waited longest for a request, or the rest of one; False if all are
        in use."""
        connections = [each for each in self.connections if isinstance(each, BoundedConnection)]
        waiting = [each for each in connections if each._awaits_request]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda each: each._head.started)
        oldest._head.stop()
        oldest.transport.abort()
        return True

    def _turn_away(self) -> None:
        if len(self.connections) > 2 * MAX_CONNECTIONS:  # too many even for a 503 each
            self.transport.abort()
            return
        self.transport.write(_TURNED_AWAY)
        self.transport.write_eof()
        self._reader.start(TURNED_AWAY_SECONDS, self.transport.abort)

    def _hang_up(self) -> None:
        self.transport.close()  # flushes the write buffer first
        self._reader.start(READ_SECONDS, self.transport.abort)


class _Timer:
    """Calls an action after some seconds, unless it is stopped or restarted."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self.started = 0.0

    @property
    def runs(self) -> bool:
        """Whether it is going to call."""
        return self._handle is not None

    def start(self, seconds: float, action: Callable[[], None]) -> None:
        self.stop()
        self.started = self._loop.time()
        self._handle = self._loop.call_later(seconds, self._call, action)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _call(self, action: Callable[[], None]) -> None:
        self._handle = None
        action()
