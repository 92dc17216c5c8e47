"""Downloads one photo over https from an untrusted host.

Connects only to checked addresses, checks every redirect, and limits bytes and time. Never decompresses a
body, uses a proxy, or shows a query string.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from email.utils import mktime_tz, parsedate_tz
from functools import cache
from io import BytesIO
from itertools import chain, zip_longest
from typing import NoReturn
from urllib.parse import urljoin

import certifi
import httpcore

from worker.errors import BadInput, Transient
from worker.photos.address import MAX_URL_CHARACTERS, PhotoUrl, parse_photo_url
from worker.photos.connection import PhotoStream
from worker.photos.dns import Lookups, Resolver, resolve
from worker.photos.hosts import HostTimedOut, RunHosts

USER_AGENT = "generation-worker/1"
_ACCEPT = (
    "image/jpeg, image/png, image/webp, image/heic, image/heif, */*"  # some hosts answer 406 without */*
)
_CONNECT_SECONDS = 5.0  # per address, and for TLS
_HEAD_START_SECONDS = 0.25  # RFC 8305, 8: "Connection Attempt Delay"
_MOST_DIALED = 8  # addresses of one host
_REDIRECTS = {301, 302, 303, 307, 308}
_RETRYABLE = {202, 408, 420, 423, 425, 429}  # 420 and 423 are Cloudinary's, 202 is "not ready yet"

# Encodings that mean compression; hosts also label plain bytes `aws-chunked`, `none`, `binary` or `UTF-8`.
# Source: IANA, HTTP Content Coding Registry.
_COMPRESSIONS = {"gzip", "x-gzip", "compress", "x-compress", "deflate", "br", "zstd", "dcb", "dcz", "exi"}

# What S3 and R2, Google, Azure, Supabase and CDNs answer for an expired signed URL.
_EXPIRED = re.compile(rb"expired|in the specified time frame|exp\W{1,4}claim", re.IGNORECASE)
_MAY_SAY_EXPIRED = {400, 401, 403}
_REASON_BYTES = 4096
_REASON_SECONDS = 1.0

_LONGEST_RETRY_AFTER_SECONDS = 600.0  # the host is untrusted, so its delay is capped
_DATE_BYTES = 64
_AUTHORITY = re.compile(rb"(?:[a-z][a-z0-9+.-]*:)?//[^/?#]*", re.IGNORECASE)

_user_folder: ContextVar[str] = ContextVar("user_folder")
"""The user whose photo is fetched; httpcore's pool passes only host and port to the network backend."""


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects only to the checked addresses of a host.

    TLS uses the host name, so SNI and the certificate check are those of the host.
    """

    def __init__(self, lookups: Lookups, network: httpcore.AsyncNetworkBackend) -> None:
        self._lookups = lookups
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the checked address that answers first; `timeout` is in seconds per address."""
        addresses = await self._lookups.addresses(host, _user_folder.get())

        def dial(address: str) -> Coroutine[None, None, httpcore.AsyncNetworkStream]:
            return self._network.connect_tcp(address, port, timeout, local_address, socket_options)

        return PhotoStream(await _race(dial, _interleaved(addresses)[:_MOST_DIALED]))


def _interleaved(addresses: Sequence[str]) -> list[str]:
    """The addresses with IPv4 and IPv6 alternating (RFC 8305); the first stays first."""
    family = ":" in addresses[0]
    own = [address for address in addresses if (":" in address) == family]
    other = [address for address in addresses if (":" in address) != family]
    return [address for address in chain(*zip_longest(own, other)) if address]


async def _race(
    dial: Callable[[str], Coroutine[None, None, httpcore.AsyncNetworkStream]], addresses: Sequence[str]
) -> httpcore.AsyncNetworkStream:
    """The first connection that succeeds, as in RFC 8305; the others are closed.

    The next address is tried after a short delay, or as soon as one fails.
    Raises the last error if no address answers.
    """
    left = list(addresses)
    under_way: set[asyncio.Task[httpcore.AsyncNetworkStream]] = set()
    failure: BaseException = httpcore.ConnectError("no address")
    try:
        while left or under_way:
            if left:
                under_way.add(asyncio.create_task(dial(left.pop(0))))
            head_start = _HEAD_START_SECONDS if left else None
            ended, _ = await asyncio.wait(under_way, timeout=head_start, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                under_way.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                failure = error
        raise failure
    finally:
        await _give_up(under_way)


async def _give_up(dials: Iterable[asyncio.Task[httpcore.AsyncNetworkStream]]) -> None:
    tasks = list(dials)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, httpcore.AsyncNetworkStream):
            await result.aclose()


class PhotoDownload:
    """Downloads over https, shared by all runs of a worker. Tests replace `resolver`, `tls` and `network`.

    `timeout_seconds` limits a whole download, including redirects. `contact` is sent in the User-Agent,
    because some hosts refuse clients without one.
    """

    def __init__(
        self,
        *,
        max_redirects: int = 3,
        max_connections: int = 64,
        timeout_seconds: float = 20.0,
        resolver: Resolver = resolve,
        network: httpcore.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
        contact: str | None = None,
    ) -> None:
        self._headers: dict[bytes | str, bytes | str] = {
            "User-Agent": f"{USER_AGENT} (+{contact})" if contact else USER_AGENT,
            "Accept": _ACCEPT,
            "Accept-Encoding": "identity",
            "Connection": "close",  # extra data after a response must not be read as the next one
        }
        self._max_redirects = max_redirects
        self._max_connections = max_connections
        self._timeout_seconds = timeout_seconds
        self._lookups = Lookups(resolver)
        self._network = CheckedNetwork(self._lookups, network or httpcore.AnyIOBackend())
        self._tls = tls
        self._pools: list[httpcore.AsyncConnectionPool] = []

    async def get(self, url: PhotoUrl, user_folder: str, hosts: RunHosts, max_bytes: int) -> bytes:
        """Download the body of a URL, at most `max_bytes`; raises BadInput or Transient.

        Every redirect target must be on an allowed host that has not timed out in this run.
        """
        hosts.require(url)
        _user_folder.set(user_folder)
        hop = url
        try:
            async with asyncio.timeout(self._timeout_seconds):
                for _ in range(self._max_redirects + 1):
                    hosts.require_answering(hop, user_folder)
                    with _translated(hop.shown):
                        found = await self._request(hop, hosts, max_bytes)
                    hosts.answered(hop, user_folder)
                    if isinstance(found, bytes):
                        return found
                    hop = found
        except TimeoutError as exc:
            hosts.timed_out(hop, user_folder)
            raise HostTimedOut("photo_host_unavailable", f"{hop.shown}: the download timed out") from exc
        except HostTimedOut:
            hosts.timed_out(hop, user_folder)
            raise
        raise BadInput("photo_refused", f"{url.shown}: redirected more than {self._max_redirects} times")

    async def close(self) -> None:
        """Cancel pending lookups and close all connections."""
        await self._lookups.close()
        for pool in self._pools:
            await pool.aclose()

    async def _request(self, url: PhotoUrl, hosts: RunHosts, max_bytes: int) -> bytes | PhotoUrl:
        usual, *older = self._connections()
        try:
            return await self._ask(usual, url, hosts, max_bytes)
        except ssl.SSLError as exc:
            if not older or isinstance(exc, ssl.SSLCertVerificationError):
                raise
        return await self._ask(older[0], url, hosts, max_bytes)

    async def _ask(
        self, pool: httpcore.AsyncConnectionPool, url: PhotoUrl, hosts: RunHosts, max_bytes: int
    ) -> bytes | PhotoUrl:
        target = httpcore.URL(scheme="https", host=url.host, port=url.port, target=url.path_and_query)
        timeouts = {"timeout": {"connect": _CONNECT_SECONDS}}
        async with pool.stream("GET", target, headers=self._headers, extensions=timeouts) as response:
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return _redirected(url, headers[b"location"], hosts)
            if response.status != 200:
                if response.status in _MAY_SAY_EXPIRED and _says_expired(url, await _reason(response)):
                    message = (
                        f"{url.shown}: the link has expired ({response.status}); order again with a new one"
                    )
                    raise BadInput("photo_link_expired", message)
                _refuse_status(url, response.status, headers)
            refuse_compressed(url.shown, headers.get(b"content-encoding", b"").decode("latin-1"))
            stated = stated_bytes(headers.get(b"content-length", b"").decode("latin-1"))
            return await _read(url, stated, response, max_bytes)

    def _connections(self) -> Sequence[httpcore.AsyncConnectionPool]:
        if not self._pools:
            self._pools = [
                httpcore.AsyncConnectionPool(
                    tls,
                    max_connections=self._max_connections,
                    network_backend=self._network,
                )
                for tls in ([self._tls] if self._tls else public_tls())
            ]
        return self._pools


async def _read(url: PhotoUrl, stated: int, response: httpcore.Response, max_bytes: int) -> bytes:
    data = BytesIO()  # a bytearray would be copied at the end
    if stated <= max_bytes:
        async for chunk in response.aiter_stream():
            data.write(chunk)
            if data.tell() > max_bytes:
                break
        else:
            return data.getvalue()
    raise too_large(url.shown, max_bytes)


def too_large(shown: str, max_bytes: int) -> BadInput:
    """The error for a photo above the size limit."""
    return BadInput("photo_too_large", f"{shown}: larger than {max_bytes / 1e6:g} MB")


def stated_bytes(content_length: str) -> int:
    """The number in a `Content-Length`; 0 without one."""
    return int(content_length) if re.fullmatch(r"[0-9]{1,20}", content_length) else 0


def refuse_compressed(shown: str, content_encoding: str) -> None:
    """Raise BadInput for a compressed response: a few kB could decompress to gigabytes."""
    if any(name.strip() in _COMPRESSIONS for name in content_encoding.lower().split(",")):
        raise BadInput(
            "photo_refused",
            f"{shown}: sent with compression, which is not supported",
        )


@cache
def public_tls() -> list[ssl.SSLContext]:
    """The usual TLS context and a fallback for older hosts; cached, because creating them takes time.

    Finite-field Diffie-Hellman is disabled, because a host can choose 8192-bit numbers, which block the event
    loop for 200 ms. For TLS 1.3, that means allowing only the mandatory curve (RFC 8446, 9.1).
    """
    both = [ssl.create_default_context(cafile=certifi.where()) for _ in range(2)]
    for tls in both:
        tls.set_ciphers(":".join(each["name"] for each in tls.get_ciphers() if each["kea"] != "kx-dhe"))
        tls.options |= ssl.OP_NO_RENEGOTIATION
    usual, older = both
    usual.set_ecdh_curve("prime256v1")
    older.maximum_version = ssl.TLSVersion.TLSv1_2  # any curve; its cipher list excludes finite fields
    return both


async def _reason(response: httpcore.Response) -> bytes:
    """The first _REASON_BYTES of an error response's body, as far as received within _REASON_SECONDS."""
    data = bytearray()
    with suppress(TimeoutError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        async with asyncio.timeout(_REASON_SECONDS):
            async for chunk in response.aiter_stream():
                data += chunk
                if len(data) >= _REASON_BYTES:
                    break
    return bytes(data[:_REASON_BYTES])


def _says_expired(url: PhotoUrl, reason: bytes) -> bool:
    if _EXPIRED.search(reason):
        return True
    # Azure may omit the details; `se` is the expiry of a signed URL.
    azure = b"AuthenticationFailed" in reason and b"did not match" not in reason
    return azure and re.search(r"[?&]se=", url.path_and_query) is not None


def _location(raw: bytes) -> str:
    """Decode a `Location` header; percent-encodes raw spaces and non-ASCII bytes (UTF-8 or Latin-1)."""
    start = _AUTHORITY.match(raw)
    authority = start[0] if start else b""
    rest = re.sub(rb"[ \x80-\xff]", lambda byte: b"%%%02X" % byte[0][0], raw[len(authority) :])
    return authority.decode("utf-8", "replace") + rest.decode("ascii")


def _redirected(url: PhotoUrl, location: bytes, hosts: RunHosts) -> PhotoUrl:
    if len(location) > MAX_URL_CHARACTERS:
        raise BadInput("bad_url", f"{url.shown}: redirects to a URL that is too long")
    try:
        target = parse_photo_url(urljoin(url.url, _location(location)))
        hosts.require(target)
        return target
    except ValueError as exc:
        raise BadInput("bad_url", f"{url.shown}: redirects to an invalid URL") from exc
    except BadInput as exc:
        raise BadInput(exc.code, f"{url.shown}: redirect refused: {exc.message}") from exc


def _refuse_status(url: PhotoUrl, status: int, headers: dict[bytes, bytes]) -> NoReturn:
    message = f"{url.shown}: the host answered {status}"
    if status >= 500 or status in _RETRYABLE:
        raise Transient("photo_host_unavailable", message, _retry_after_seconds(headers))
    if status in (404, 410):
        raise BadInput("photo_missing", f"{message}: photo not found")
    if status in (401, 403):
        raise BadInput("photo_forbidden", f"{message}: access denied; the link may have expired")
    raise BadInput("photo_refused", message)


def _retry_after_seconds(headers: Mapping[bytes, bytes]) -> float | None:
    """The delay in `Retry-After`, in seconds or as a date, which is relative to the host's own `Date`."""
    asked = headers.get(b"retry-after", b"")[:_DATE_BYTES].strip()
    if re.fullmatch(rb"\d{1,9}", asked):
        return min(float(asked), _LONGEST_RETRY_AFTER_SECONDS)
    then, now = _seconds(asked), _seconds(headers.get(b"date", b"")[:_DATE_BYTES])
    if then is None or now is None:
        return None
    return min(max(then - now, 0.0), _LONGEST_RETRY_AFTER_SECONDS)


def _seconds(date: bytes) -> float | None:
    """An HTTP date in seconds since 1970; None if it is invalid."""
    try:
        parts = parsedate_tz(date.decode("latin-1"))
        return None if parts is None else float(mktime_tz(parts))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


@contextmanager
def _translated(shown: str) -> Iterator[None]:
    """Translate errors of httpcore, TLS and sockets; every error names the photo."""
    try:
        yield
    except (BadInput, Transient) as exc:
        if exc.message.startswith(shown):
            raise
        raise type(exc)(
            exc.code, f"{shown}: {exc.message}"
        ) from exc  # raised while connecting, where only the host is known
    except (
        OSError,
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as exc:
        if isinstance(exc, ssl.SSLCertVerificationError):
            raise BadInput("photo_tls_invalid", f"{shown}: the host's TLS certificate is not valid") from exc
        late = isinstance(exc, TimeoutError | httpcore.TimeoutException)
        raise (HostTimedOut if late else Transient)(
            "photo_host_unavailable", f"{shown}: the connection failed ({type(exc).__name__})"
        ) from exc
