"""How long a connection may hold a file descriptor of ours; needed where Google's front end is not before us.

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


class BoundedConnection(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with an end for whoever does not send or does not read.

    A request that has begun has bounds of its own: `BODY_SECONDS`, and the run's deadlines.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        self._head, self._reader = _Timer(self.loop), _Timer(self.loop)
        super().connection_made(transport)
        self._head.start(HEAD_SECONDS, self._hang_up)

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
