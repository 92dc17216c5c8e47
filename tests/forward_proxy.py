"""A forward proxy, as a company's network has one: it sees who is asked for and leads to local servers."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

REQUEST = re.compile(rb"(\S+) (\S+) (HTTP/1\.1\r\n.*)", re.DOTALL)


@dataclass(slots=True)
class ForwardProxy:
    """Answers 502 for a host that `routes` does not lead to a server; `asked` names every host, in order."""

    routes: Mapping[str, str]
    url: str = ""
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, a tunnel (CONNECT) or one with a whole address, and close."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            match = REQUEST.fullmatch(head)
            assert match
            method, target, rest = match.groups()
            if method == b"CONNECT":
                self.asked.append(f"CONNECT {target.decode()}")
            else:
                parts = urlsplit(target.decode())
                self.asked.append(parts.netloc)
                if parts.netloc in self.routes:
                    body = await reader.readexactly(_length(head))
                    path = target.decode().partition(parts.netloc)[2]
                    line = b"%b %b %b" % (method, path.encode(), rest.replace(b"keep-alive", b"close"))
                    await self._forward(self.routes[parts.netloc], line + body, writer)
                    return
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async def _forward(self, server: str, request: bytes, writer: asyncio.StreamWriter) -> None:
        there = urlsplit(server)
        answer, asking = await asyncio.open_connection(there.hostname, there.port)
        asking.write(request)
        while data := await answer.read(1 << 16):
            writer.write(data)
        asking.close()
        writer.close()


def _length(head: bytes) -> int:
    found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else 0


@asynccontextmanager
async def forwarding(**routes: str) -> AsyncIterator[ForwardProxy]:
    """A proxy that leads to these servers, by host; `_` stands for a dot."""
    proxy = ForwardProxy({host.replace("_", "."): server for host, server in routes.items()})
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
