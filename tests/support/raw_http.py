"""HTTP by hand: what no client library would send, and what comes back, byte by byte."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

ANSWERED_SECONDS = 60.0  # of patience: a test that waits so long has failed


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server sent before it closed the connection; empty if it only closed."""

    raw: bytes

    @property
    def status(self) -> int:
        """The status of the (last) answer; 0 if there was none."""
        found = re.findall(rb"(?:^|\n)HTTP/1\.[01] ([0-9]{3}) ", self.raw)
        return int(found[-1]) if found else 0

    @property
    def head(self) -> str:
        """The status line and the headers."""
        return self.raw.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def body(self) -> bytes:
        """The bytes after the headers."""
        return self.raw.partition(b"\r\n\r\n")[2]


class Line:
    """One connection to a server."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        self._socket = socket.create_connection((address.hostname, address.port), ANSWERED_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *parts: bytes) -> int:
        """Send as much as the server takes; how many bytes that was."""
        sent = 0
        try:
            for part in parts:
                self._socket.sendall(part)
                sent += len(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return sent

    def send_all(self, parts: Iterable[bytes]) -> int:
        """As `send`, for parts that are made as they are needed."""
        sent = 0
        for part in parts:
            if not self.send(part):
                break
            sent += len(part)
        return sent

    def is_closed(self) -> bool:
        """Whether the server has ended the connection; what it has sent is read, and not waited for."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(65536):
                pass
        except BlockingIOError:
            return False
        except ConnectionResetError:
            pass
        finally:
            self._socket.settimeout(ANSWERED_SECONDS)
        return True

    def reply(self) -> Reply:
        """Everything until the server closes."""
        got = bytearray()
        try:
            while part := self._socket.recv(65536):
                got += part
        except ConnectionResetError:  # the server closed with something of ours unread
            pass
        return Reply(bytes(got))


def exchange(url: str, *parts: bytes) -> Reply:
    """The reply to these bytes, sent over a new connection."""
    with Line(url) as line:
        line.send(*parts)
        return line.reply()
