"""One connection to a photo host that may be hostile: TLS, and limits on what the host sends.

All runs share the event loop. So each step reads little, other tasks run between steps, and input that is
expensive to parse is refused before the parser gets it.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import httpcore

from worker.errors import BadInput
from worker.photos.hosts import HostTimedOut

T = TypeVar("T")

FIRST_BYTE_SECONDS = 5.0

RATE_SECONDS = 5.0
RATE_BYTES = 16_384
"""Minimum number of bytes per RATE_SECONDS. A slower host could not send 100 kB within the 20 s per photo."""

HEAD_BYTES = 16_384
HEAD_LINES = 256
MAX_INFORMATIONAL = 16
"""Limits of a response's head, including 1xx responses. h11 takes microseconds for each."""

FREE_PIECES = 64
PIECE_BYTES = 256
"""After FREE_PIECES reads, TLS records or chunks, their average size must be at least PIECE_BYTES. Hosts send
1 to 64 kB at a time."""

_CHUNK_LINE_BYTES = 256
_CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,16})[ \t]{0,8}(?:;[^\r\n]*)?\r\n")
"""Stricter than h11, whose expression takes one second for a line with 20 000 spaces and a bare line feed."""
_TRAILER_BYTES = 1024

FREE_TLS_BYTES = 65_536
"""Allowed TLS overhead (certificates, tickets, key updates), in addition to one byte per byte of payload."""

_READ_BYTES = 65_536
_TLS_STEP_BYTES = 4096
_HEAD_STEP_BYTES = 1024
_BODY_STEP_BYTES = 16_384

_HEAD_END = re.compile(rb"\n\r?\n")
_CHUNKED = re.compile(rb"^transfer-encoding:", re.IGNORECASE | re.MULTILINE)


class PhotoStream(httpcore.AsyncNetworkStream):
    """Reads a host's responses in small steps and limits them; each `write` starts a new response.

    Raises BadInput `photo_refused` for an abusive response, HostTimedOut for a slow one.
    """

    def __init__(self, tcp: httpcore.AsyncNetworkStream) -> None:
        self._tcp = tcp
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._unread = memoryview(b"")
        self._raw = Pieces()
        self._overhead = 0
        self._answer = Answer(0.0)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
    ) -> httpcore.AsyncNetworkStream:
        """Do the TLS handshake within `timeout` seconds."""
        self._tls = ssl_context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        try:
            async with asyncio.timeout(timeout):
                await self._step(self._tls.do_handshake)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Send a request."""
        if not buffer:
            return
        self._raw, self._overhead = Pieces(), 0
        self._answer = Answer(asyncio.get_running_loop().time())
        tls = self._secure()
        try:
            async with asyncio.timeout_at(self._answer.deadline):
                await self._step(lambda: tls.write(buffer))
        except TimeoutError:
            self._answer.time_out()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """The next piece of the response, empty at its end; lets other tasks run first."""
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        tls, answer = self._secure(), self._answer
        while True:
            try:
                async with asyncio.timeout_at(answer.deadline):
                    data = await self._step(lambda: tls.read(min(max_bytes, answer.step_bytes)))
            except TimeoutError:
                answer.next_window(loop.time())
            except ssl.SSLEOFError:
                return b""
            else:
                self._overhead = max(self._overhead - 2 * len(data), 0)
                answer.received(data, loop.time())
                return data

    async def aclose(self) -> None:
        """Close the connection without a TLS close, as is usual for HTTP."""
        await self._tcp.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Information for httpcore: the TLS object, and whether the socket is readable."""
        return self._tls if info == "ssl_object" else self._tcp.get_extra_info(info)

    def _secure(self) -> ssl.SSLObject:
        if self._tls is None:
            raise httpcore.LocalProtocolError("photos are fetched only over TLS")
        return self._tls

    async def _step(self, call: Callable[[], T]) -> T:
        """Do one TLS operation, sending and receiving the data it needs."""
        while True:
            try:
                result = call()
            except ssl.SSLWantReadError:
                await self._send()
                await self._take_in()
            else:
                await self._send()
                return result

    async def _take_in(self) -> None:
        """Pass a little received data to TLS: some records, such as key updates, are expensive and empty."""
        if self._unread:
            await asyncio.sleep(0)
        else:
            self._unread = memoryview(await self._tcp.read(_READ_BYTES))
            if not self._unread:
                self._incoming.write_eof()
                return
            self._raw.count(len(self._unread))
        step, self._unread = self._unread[:_TLS_STEP_BYTES], self._unread[_TLS_STEP_BYTES:]
        self._overhead += len(step)
        if self._overhead > FREE_TLS_BYTES:
            raise _refused("sends more TLS overhead than photo data")
        self._incoming.write(step)

    async def _send(self) -> None:
        if self._outgoing.pending:
            await self._tcp.write(self._outgoing.read())


class Answer:
    """The limits of one response, from the request on: rate, head and piece size."""

    def __init__(self, now: float) -> None:
        self.deadline = now + FIRST_BYTE_SECONDS
        self._begun = False
        self._window_bytes = 0
        self._reads = Pieces()
        self._head: Head | None = Head()
        self._chunks: Chunks | None = None

    @property
    def step_bytes(self) -> int:
        """How many bytes to read at once."""
        return _HEAD_STEP_BYTES if self._head else _BODY_STEP_BYTES

    def received(self, data: bytes, now: float) -> None:
        """Check data that was read; raises BadInput or HostTimedOut."""
        if not data:
            return
        self._reads.count(len(data))
        if not self._begun:
            self._begun = True
            self.deadline = now + RATE_SECONDS
        self._window_bytes += len(data)
        if now >= self.deadline:
            self.next_window(now)
        if self._head:
            rest = self._head.follow(data)
            if rest is None:
                return
            self._chunks = Chunks() if self._head.chunked else None
            self._head = None
            data = rest
        if self._chunks:
            self._chunks.follow(data)

    def next_window(self, now: float) -> None:
        """Start the next rate window; raises HostTimedOut if the last one had too few bytes."""
        if self._window_bytes < RATE_BYTES:
            self.time_out()
        self._window_bytes = 0
        self.deadline = now + RATE_SECONDS

    def time_out(self) -> NoReturn:
        """Raise HostTimedOut."""
        message = f"the host did not answer within {FIRST_BYTE_SECONDS:g} s"
        if self._begun:
            message = f"the host sent less than {RATE_BYTES // 1024} kB in {RATE_SECONDS:g} s"
        raise HostTimedOut("photo_host_unavailable", message)


class Head:
    """Checks the head of a response and of the 1xx responses before it."""

    def __init__(self) -> None:
        self.chunked = False
        self._text = bytearray()
        self._bytes = 0
        self._lines = 0
        self._informational = 0

    def follow(self, data: bytes) -> bytes | None:
        """Check a part of the head; returns the data after its end, or None before it. Raises BadInput."""
        self._text += data
        while found := _HEAD_END.search(self._text):
            head, self._text = self._text[: found.end()], self._text[found.end() :]
            self._bytes += len(head)
            self._lines += head.count(b"\n")
            self._limit(self._bytes, self._lines)
            if head[9:10] != b"1":  # HTTP/1.1 103
                self.chunked = _CHUNKED.search(head) is not None
                return bytes(self._text)
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                raise _refused("sends too many 1xx responses")
        self._limit(self._bytes + len(self._text), self._lines + self._text.count(b"\n"))
        return None

    def _limit(self, size: int, lines: int) -> None:
        if size > HEAD_BYTES or lines > HEAD_LINES:
            raise _refused("sends too many headers")


class Chunks:
    """Checks a chunked body (RFC 9112, 7.1) and refuses input that is slow to parse for h11."""

    def __init__(self) -> None:
        self._line = b""
        self._left = 0
        self._trailer: int | None = None
        self._pieces = Pieces()

    def follow(self, data: bytes) -> None:
        """Check a part of the body; raises BadInput."""
        at = 0
        while at < len(data):
            if self._trailer is not None:
                self._trailer += len(data) - at
                if self._trailer > _TRAILER_BYTES:
                    raise _refused("sends too many trailers")
                return
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
            else:
                step = (data.find(b"\n", at) + 1 or len(data)) - at
                self._follow_line(data[at : at + step])
            at += step

    def _follow_line(self, part: bytes) -> None:
        self._line += part
        line = _CHUNK_LINE.fullmatch(self._line)
        if line:
            size = int(line[1], 16)
            if size:
                self._pieces.count(size)
                self._left = size + 2  # with its CRLF
            else:
                self._trailer = 0
            self._line = b""
        elif self._line.endswith(b"\n") or len(self._line) > _CHUNK_LINE_BYTES:
            raise _refused("sends invalid chunks")


class Pieces:
    """Counts pieces, each of which has a fixed cost regardless of its size."""

    def __init__(self) -> None:
        self._number = 0
        self._bytes = 0

    def count(self, size: int) -> None:
        """Count one piece; raises BadInput if the average size is too small."""
        self._number += 1
        self._bytes += size
        if self._number > FREE_PIECES and self._bytes < PIECE_BYTES * self._number:
            raise _refused("sends a few bytes at a time")


def _refused(what: str) -> BadInput:
    return BadInput("photo_refused", f"the host {what}")
