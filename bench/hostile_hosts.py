"""The event loop's worst lag under photo hosts that attack it: each attack alone, then all at once.

`hostile_hosts()` starts the hosts in another process; `urls()` names photos on them, one kind of host per
attack. They use real TLS and have addresses that look public, which `network` maps to loopback. Names are
looked up by a `getaddrinfo` that never answers for some of them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import httpcore

from tests.support.photo_host import Authority, NoBucket, fetcher_of, photo
from worker.errors import GenerationError
from worker.photos.download import PhotoDownload, public_tls
from worker.photos.fetch import PhotoFetcher
from worker.settings import MAX_PHOTO_BYTES

PURPOSE = "the event loop's worst lag under hostile photo hosts; about two minutes"
DOMAIN = "hostile.example"
PHOTOS = 14
"""The most photos of an order."""

ALONE_SECONDS = 4.0
TOGETHER_SECONDS = 30.0
SILENT_DNS_SECONDS = 20.0

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"

Write = Callable[[bytes], Awaitable[None]]


async def _without_end(write: Write, piece: bytes, first: bytes = b"", pause_seconds: float = 0.0) -> None:
    await write(first)
    while True:
        await write(piece)
        if pause_seconds:
            await asyncio.sleep(pause_seconds)


ANSWERS: dict[str, Callable[[Write], Awaitable[None]]] = {
    "one-byte-chunks": lambda write: _without_end(write, b"1\r\nx\r\n" * 2000, CHUNKED),
    "chunk-extensions": lambda write: _without_end(write, b"1;" + b"e" * 200 + b"\r\nx\r\n", CHUNKED),
    "early-hints": lambda write: _without_end(write, b"HTTP/1.1 103\r\n\r\n" * 1000),
    "headers": lambda write: _without_end(write, b"a:\r\n" * 1000, OK),
    "long-header": lambda write: _without_end(write, b" " * 1000, OK + b"a: "),
    "trailers": lambda write: _without_end(write, b"a:\r\n" * 1000, CHUNKED + b"0\r\n"),
    "whole-trailers": lambda write: _without_end(
        write, b"", CHUNKED + b"0\r\n" + b"a:\r\n" * 24_000 + b"\r\n", 9
    ),
    "whole-headers": lambda write: _without_end(write, b"", OK + b"a:\r\n" * 24_000 + b"\r\n", 9),
    "chunk-line": lambda write: _without_end(write, b"", CHUNKED + b"1;" + b" " * 30_000 + b"\n\r\nx", 9),
    "one-byte-records": lambda write: _without_end(write, b"x", OK + b"content-length: 6000000\r\n\r\n"),
    "small-chunks": lambda write: _without_end(write, b"100\r\n" + bytes(256) + b"\r\n", CHUNKED),
    "flood": lambda write: _without_end(write, bytes(1 << 20), OK + b"content-length: 6000000\r\n\r\n"),
    "drip": lambda write: _without_end(write, b"x", pause_seconds=1),
    "slow": lambda write: _without_end(
        write, bytes(3600), OK + b"content-length: 6000000\r\n\r\n", pause_seconds=1
    ),
    "never": lambda write: asyncio.sleep(3600),
}
"""How a host answers a request for a photo, by the first part of its name."""

MUTE, COSTLY, SILENT_DNS, REDIRECTS = "mute", "costly-handshake", "silent-dns", "redirects"
KINDS = (*ANSWERS, MUTE, COSTLY, SILENT_DNS, REDIRECTS)
"""All attacks, including: no TLS, a handshake in a large field, no DNS answer, redirects to the next host."""

_ADDRESSES = {MUTE: "93.184.216.35", COSTLY: "93.184.216.36"}
_ADDRESS = "93.184.216.34"


class HostileNetwork(httpcore.AnyIOBackend):
    """Maps the hosts' addresses to their ports on loopback."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._ports = ports

    async def connect_tcp(
        self, host: str, port: int, *args: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the loopback port that stands for this address."""
        return await super().connect_tcp("127.0.0.1", self._ports[host], *args, **options)


@dataclass(frozen=True, slots=True)
class HostileHosts:
    """The running hosts; a `PhotoDownload` with `network` reaches them."""

    network: HostileNetwork

    def urls(self, kind: str, photos: int = PHOTOS, name: str = "x") -> list[str]:
        """A user's photos on hosts of this kind, each on its own host."""
        return [f"https://{kind}--{name}{number}.{DOMAIN}/{number}.jpg" for number in range(photos)]

    @property
    def good(self) -> str:
        """A photo on a host that sends it."""
        return f"https://good.{DOMAIN}/me.jpg"


@contextmanager
def hostile_hosts() -> Iterator[HostileHosts]:
    """Run the hosts in another process, and resolve their names in this one, while the context is open."""
    with TemporaryDirectory() as folder:
        authority = Authority(Path(folder), (f"*.{DOMAIN}",))
        command = [sys.executable, "-m", "bench.hostile_hosts", str(authority.pem_file)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=_yield
        ) as process:
            assert process.stdout is not None
            ports = dict(
                zip(
                    (_ADDRESS, *_ADDRESSES.values()), map(int, process.stdout.readline().split()), strict=True
                )
            )
            try:
                with (
                    patch("certifi.where", lambda: str(authority.ca_file)),
                    patch("socket.getaddrinfo", _names(socket.getaddrinfo)),
                ):
                    public_tls.cache_clear()
                    yield HostileHosts(HostileNetwork(ports))
            finally:
                public_tls.cache_clear()
                process.terminate()


def _yield() -> None:
    os.nice(10)  # in reality these hosts run elsewhere


def _names(usual: Callable[..., Any]) -> Callable[..., Any]:
    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(host, str) or not host.endswith(f".{DOMAIN}"):
            return usual(host, port, *args, **options)
        kind = host.partition("--")[0]
        if kind == SILENT_DNS:
            time.sleep(SILENT_DNS_SECONDS)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (_ADDRESSES.get(kind, _ADDRESS), port))]

    return getaddrinfo


@dataclass(slots=True)
class Lag:
    """The longest time that the event loop let a ready task wait, and its slowest lookup of a name.

    `worst_busy_seconds` is the longest time that the loop's thread computed in one wait: on a busy machine,
    only that is caused by the loop.
    """

    worst_seconds: float = 0.0
    worst_busy_seconds: float = 0.0
    worst_lookup_seconds: float = 0.0


@asynccontextmanager
async def worst_lag(pause_seconds: float = 0.005) -> AsyncIterator[Lag]:
    """Measure the running loop until the block ends."""
    loop, lag = asyncio.get_running_loop(), Lag()

    async def watch() -> None:
        while True:
            due, busy = loop.time() + pause_seconds, time.thread_time()
            await asyncio.sleep(pause_seconds)
            lag.worst_seconds = max(lag.worst_seconds, loop.time() - due)
            lag.worst_busy_seconds = max(lag.worst_busy_seconds, time.thread_time() - busy)

    async def look_up() -> None:
        while True:
            began = loop.time()
            try:
                await loop.getaddrinfo("localhost", 443)
            finally:
                lag.worst_lookup_seconds = max(lag.worst_lookup_seconds, loop.time() - began)
            await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(watch()), asyncio.create_task(look_up())]
    try:
        await asyncio.sleep(2 * pause_seconds)
        yield lag
    finally:
        await _end(tasks)


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def attacked(
    hosts: HostileHosts, urls: dict[str, list[str]], seconds: float
) -> tuple[Lag, Counter[str]]:
    """Fetch each user's photos like a separate run; returns the loop's lag and the photos' results."""
    ends: Counter[str] = Counter()

    async def fetch(fetcher: PhotoFetcher, url: str, user: str) -> None:
        end = "photo"
        try:
            await fetcher.fetch(url, user)
        except GenerationError as error:
            end = error.code
        except asyncio.CancelledError:
            end = "under way"
        ends[end] += 1

    web = PhotoDownload(network=hosts.network)
    fetchers = {user: fetcher_of(NoBucket(), web, max_bytes=MAX_PHOTO_BYTES) for user in urls}
    for user, fetcher in fetchers.items():
        await fetcher.fetch(hosts.good, user)  # imports happen now, not during the measurement
    gc.collect()
    gc.freeze()  # like the worker: a full collection of all loaded objects is not caused by the hosts
    async with worst_lag() as lag:
        tasks = []
        for user, own in urls.items():
            for start in range(
                0, len(own), PHOTOS
            ):  # as when a claim's jobs start: an order's photos at once
                await asyncio.sleep(0)
                tasks += [
                    asyncio.create_task(fetch(fetchers[user], url, user))
                    for url in own[start : start + PHOTOS]
                ]
        await asyncio.wait(tasks, timeout=seconds)
        await _end(tasks)
    gc.unfreeze()
    await web.close()
    return lag, ends


def everything(hosts: HostileHosts, users: int) -> dict[str, list[str]]:
    """Photos of every kind for each user, in random order."""
    urls = {
        str(user): [url for kind in KINDS for url in hosts.urls(kind, name=f"{user}-")]
        for user in range(users)
    }
    for own in urls.values():
        random.Random(1).shuffle(own)
    return urls


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument("--brief", action="store_true", help="all at once alone")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Measure one user's photos for each attack, then three users' for all; the last line is JSON."""
    with hostile_hosts() as hosts:
        for kind in () if options.brief else KINDS:
            _tell(kind, *asyncio.run(attacked(hosts, {"user": hosts.urls(kind)}, ALONE_SECONDS)))
        lag, ends = asyncio.run(attacked(hosts, everything(hosts, 3), TOGETHER_SECONDS))
        _tell("all at once", lag, ends)
    print(json.dumps({
        "worst_lag_ms": round(lag.worst_seconds * 1000),
        "worst_busy_ms": round(lag.worst_busy_seconds * 1000),
        "worst_lookup_ms": round(lag.worst_lookup_seconds * 1000),
    }), flush=True)  # fmt: skip


def _tell(what: str, lag: Lag, ends: Counter[str]) -> None:
    waits = (
        f"loop {lag.worst_seconds * 1000:5.0f} ms, {lag.worst_busy_seconds * 1000:5.0f} ms of them busy;"
        f" lookup {lag.worst_lookup_seconds * 1000:5.0f} ms"
    )
    print(f"{what:<18} {waits}  {', '.join(f'{n} {end}' for end, n in sorted(ends.items()))}", flush=True)


async def _serve(pem_file: str) -> None:
    """Serve the hosts (the usual one, a silent one, one with a costly handshake) and print their ports."""
    usual = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    costly = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for tls in (usual, costly):
        tls.load_cert_chain(pem_file)
    costly.set_ecdh_curve("ffdhe8192")
    jpeg = photo()

    async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0)  # `drain` alone would not notice that the other end has closed

        with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            host = head.lower().partition("\r\nhost: ")[2].partition("\r\n")[0]
            kind = host.partition("--")[0]
            if kind in ANSWERS:
                await ANSWERS[kind](write)
            elif kind == REDIRECTS:
                target = f"https://{REDIRECTS}--x{host}/"
                await write(f"HTTP/1.1 302 Found\r\nlocation: {target}\r\n\r\n".encode())
            else:
                await write(OK + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(jpeg) + jpeg)
        writer.close()

    async def mute(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while await reader.read(4096):
                pass

    servers = [
        await asyncio.start_server(asked, "127.0.0.1", 0, ssl=usual),
        await asyncio.start_server(mute, "127.0.0.1", 0),
        await asyncio.start_server(asked, "127.0.0.1", 0, ssl=costly),
    ]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
