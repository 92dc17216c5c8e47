"""One photo from a host we do not know, over https.

Connects only to an address that was checked, follows redirects by hand, reads no more than it may;
never looks a host up twice, decompresses a body, uses a proxy or tells a query string.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NoReturn
from urllib.parse import urljoin

import certifi
import httpcore

from worker.address import HTTPS_PORT, PhotoUrl, is_public, parse_photo_url
from worker.errors import BadInput, Transient

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""Looks a host up: all its IP addresses, or BadInput / Transient."""

_REQUEST_HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": "generation-worker/1",
    "Accept": "image/jpeg, image/png, image/webp, image/heic, image/heif",
    "Accept-Encoding": "identity",
}
_CONNECT_SECONDS = 5.0  # for each address, and for TLS: one dead address leaves time for the next
_KEEP_SECONDS = 5.0
_REDIRECTS = {301, 302, 303, 307, 308}
_COME_BACK_LATER = {408, 425, 429}
_LONGEST_RETRY_AFTER_SECONDS = 600.0  # a stranger's word: heard, but not for long
_UNKNOWN_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


async def resolve(host: str) -> list[str]:
    """Every address the system's resolver gives for a host.

    Raises BadInput `photo_host_unknown` where there is no such name, else Transient.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, HTTPS_PORT, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        if exc.errno in _UNKNOWN_HOST:
            raise BadInput("photo_host_unknown", f"there is no host named {host[:80]}") from exc
        raise Transient(
            "photo_host_unavailable", f"the host name {host[:80]} could not be looked up"
        ) from exc
    return [str(sockaddr[0]) for *_, sockaddr in found]


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Looks a host up once, refuses it unless every address is public, and connects to one of exactly those.

    TLS is started on top of it with the host's name, so SNI and certificate are the host's.
    """

    def __init__(self, resolver: Resolver, network: httpcore.AsyncNetworkBackend) -> None:
        self._resolver = resolver
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first checked address that answers; `timeout` (seconds) is for each of them."""
        addresses = list(dict.fromkeys(await self._resolver(host)))
        if not addresses or not all(is_public(address) for address in addresses):
            raise BadInput("forbidden_address", f"the host {host[:80]} is not on the public internet")
        for address in addresses[:-1]:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._network.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)


class PhotoDownload:
    """Downloads over https; the caller caps the time. `tls` and `network` default to the real ones."""

    def __init__(
        self,
        *,
        max_bytes: int,
        max_redirects: int,
        max_connections: int,
        resolver: Resolver,
        network: httpcore.AsyncNetworkBackend | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_redirects = max_redirects
        self._max_connections = max_connections
        self._network = CheckedNetwork(resolver, network or httpcore.AnyIOBackend())
        self._tls = tls
        self._pool: httpcore.AsyncConnectionPool | None = None

    async def get(self, url: PhotoUrl) -> bytes:
        """The body behind a URL, at most `max_bytes`; raises BadInput or Transient."""
        hop = url
        for _ in range(self._max_redirects + 1):
            with _translated(hop.shown):
                found = await self._request(hop)
            if isinstance(found, bytes):
                return found
            hop = found
        raise BadInput("photo_refused", f"{url.shown}: redirected more than {self._max_redirects} times")

    async def close(self) -> None:
        """Close the connections kept for the next photo of the same host."""
        if self._pool is not None:
            await self._pool.aclose()

    async def _request(self, url: PhotoUrl) -> bytes | PhotoUrl:
        target = httpcore.URL(scheme="https", host=url.host, port=url.port, target=url.path_and_query)
        timeouts = {"timeout": {"connect": _CONNECT_SECONDS}}
        async with self._connections().stream(
            "GET", target, headers=_REQUEST_HEADERS, extensions=timeouts
        ) as response:
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return _redirected(url, headers[b"location"])
            if response.status != 200:
                _refuse_status(url, response.status, headers)
            if headers.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity"):
                raise BadInput("photo_refused", f"{url.shown}: sent compressed, although that was declined")
            return await self._read(url, headers.get(b"content-length", b""), response)

    async def _read(self, url: PhotoUrl, length: bytes, response: httpcore.Response) -> bytes:
        self._limit(url, int(length) if re.fullmatch(rb"\d{1,20}", length) else 0)
        data = bytearray()
        async for chunk in response.aiter_stream():
            data += chunk
            self._limit(url, len(data))
        return bytes(data)

    def _limit(self, url: PhotoUrl, size: int) -> None:
        if size > self._max_bytes:
            raise too_large(url.shown, self._max_bytes)

    def _connections(self) -> httpcore.AsyncConnectionPool:
        if self._pool is None:
            self._pool = httpcore.AsyncConnectionPool(
                self._tls or _public_tls(),
                max_connections=self._max_connections,
                keepalive_expiry=_KEEP_SECONDS,
                network_backend=self._network,
            )
        return self._pool


def too_large(shown: str, max_bytes: int) -> BadInput:
    """The refusal of a photo above the limit, naming the limit."""
    return BadInput("photo_too_large", f"{shown}: larger than {max_bytes / 1e6:g} MB")


@cache
def _public_tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certifi.where())  # takes time, so once and only when needed


def _redirected(url: PhotoUrl, location: bytes) -> PhotoUrl:
    try:
        return parse_photo_url(urljoin(url.url, location.decode("utf-8", "replace")))
    except ValueError as exc:
        raise BadInput("bad_url", f"{url.shown}: redirects to something that is no address") from exc
    except BadInput as exc:
        raise BadInput(exc.code, f"{url.shown}: redirects elsewhere, and {exc.message}") from exc


def _refuse_status(url: PhotoUrl, status: int, headers: dict[bytes, bytes]) -> NoReturn:
    said = f"{url.shown}: the host answered {status}"
    if status >= 500 or status in _COME_BACK_LATER:
        delay = re.fullmatch(rb"\d{1,9}", headers.get(b"retry-after", b""))
        retry_after_seconds = min(float(delay[0]), _LONGEST_RETRY_AFTER_SECONDS) if delay else None
        raise Transient("photo_host_unavailable", said, retry_after_seconds)
    if status in (404, 410):
        raise BadInput("photo_missing", f"{said}, no such photo")
    if status in (401, 403):
        raise BadInput("photo_forbidden", f"{said}, not for us to see; the link may have expired")
    raise BadInput("photo_refused", said)


@contextmanager
def _translated(shown: str) -> Iterator[None]:
    """The one place where errors of httpcore, TLS and sockets become ours."""
    try:
        yield
    except (
        OSError,
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as exc:
        # httpcore's pool raises `from None`, which leaves the reason in the context only.
        if isinstance(exc.__cause__ or exc.__context__, ssl.SSLCertVerificationError):
            raise BadInput(
                "photo_tls_invalid", f"{shown}: the host's certificate is not valid for it"
            ) from exc
        raise Transient(
            "photo_host_unavailable", f"{shown}: the connection failed ({type(exc).__name__})"
        ) from exc
