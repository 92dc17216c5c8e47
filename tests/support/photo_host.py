"""A photo host on loopback with real TLS: its certificate, its responses, and how a client connects to it."""

import asyncio
import datetime
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image

from worker.common.fair_budget import FairBudget
from worker.errors import BadInput, GenerationError, Transient
from worker.jobs import Photo
from worker.photos.download import PhotoDownload
from worker.photos.fetch import ORIGINAL_BYTES, PhotoBucket, PhotoFetcher
from worker.photos.kinds import kind_of

HOST = "photos.example.com"
OTHER_HOST = "cdn.example.com"
UNCERTIFIED_HOST = "stranger.example.com"
ADDRESS = "93.184.216.34"
URL = f"https://{HOST}/album/me.jpg?token=SECRET"
MAX_BYTES = 100_000

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def photo(kind: str = "JPEG", side: int = 64) -> bytes:
    """A small picture, encoded."""
    out = BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((side, side)).save(out, kind)
    return out.getvalue()


class Authority:
    """A certificate authority, with the TLS context for a server it certified and a client trusting it."""

    def __init__(self, folder: Path, hosts: Sequence[str] = (HOST, OTHER_HOST)) -> None:
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        is_ca = x509.BasicConstraints(ca=True, path_length=None)
        ca = self._certificate(ca_name, ca_key, ca_name, ca_key, is_ca)
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        leaf = self._certificate(x509.Name([]), key, ca_name, ca_key, names)
        self.ca_file, self.pem_file = folder / "ca.pem", folder / "host.pem"
        self.ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        self.pem_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + leaf.public_bytes(serialization.Encoding.PEM)
        )
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.server.load_cert_chain(self.pem_file)
        self.client = ssl.create_default_context(cafile=str(self.ca_file))

    @staticmethod
    def _certificate(
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Name,
        issuer_key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
            )
        )
        return builder.sign(issuer_key, hashes.SHA256())


class PhotoHost:
    """Serves `answers` by path; `requests` has the received heads, `names` the SNI names."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.names: list[str | None] = []
        self.port = 0

    @asynccontextmanager
    async def serve(self, authority: Authority) -> AsyncIterator[None]:
        """Listen on a free loopback port until the block ends."""
        authority.server.sni_callback = lambda _socket, name, _context: self.names.append(name)
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=authority.server)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.requests.append(head)
                await self.answers[head.split()[1].partition("?")[0]](reader, writer)
                if writer.is_closing():
                    return


class Loopback(httpcore.AnyIOBackend):
    """Connects any address to the host on loopback; `dialled` has the requested addresses.

    `dead` addresses refuse, `silent` ones never answer; `given_up` are those that were abandoned.
    """

    def __init__(
        self,
        host: PhotoHost,
        dead: Iterable[str] = (),
        silent: Iterable[str] = (),
        failure: Exception | None = None,
    ) -> None:
        self.dialled: list[str] = []
        self.given_up: list[str] = []
        self._silent = frozenset(silent)
        self._host = host
        self._dead = frozenset(dead)
        self._failure = failure

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the loopback port instead, unless this address is dead."""
        assert port == 443
        self.dialled.append(host)
        if self._failure is not None:
            raise self._failure
        if host in self._dead:
            raise httpcore.ConnectError("connection refused")
        if host in self._silent:
            try:
                await asyncio.wait_for(asyncio.Event().wait(), timeout)
            except TimeoutError as exc:
                raise httpcore.ConnectTimeout from exc
            finally:
                self.given_up.append(host)
        return await super().connect_tcp("127.0.0.1", self._host.port, timeout, local_address, socket_options)


def reply(body: bytes = b"", status: int = 200, close: bool = False, **headers: str) -> Answer:
    """A plain answer; header names are written with underscores, `content_length` overrides the true one."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fields = {"content-length": str(len(body))} | {k.replace("_", "-"): v for k, v in headers.items()}
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        await writer.drain()
        if close:
            writer.close()

    return answer


def stream(piece: bytes, pause_seconds: float = 0.0) -> Answer:
    """A body in chunks that never ends, one piece at a time, until the client hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            with suppress(TimeoutError):
                if await asyncio.wait_for(reader.read(1), pause_seconds or 0.000_1) == b"":
                    return writer.close()

    return answer


class NoBucket:
    """Storage that must not be asked."""

    async def download(self, bucket: str, path: str, max_bytes: int) -> bytes:
        raise AssertionError(f"{bucket}/{path} was asked for")


class AsItIs:
    """Prepares nothing: the photo is the file."""

    async def prepare(self, data: bytes, user_folder: str, shown: str) -> Photo:
        try:
            return Photo.of(data, f"image/{kind_of(data).lower()}")
        except ValueError as exc:
            raise BadInput("photo_not_an_image", f"{shown} {exc}") from exc


def fetcher_of(
    bucket: PhotoBucket, web: PhotoDownload, *buckets: str, hosts: Sequence[str] = ("*",), **limits: Any
) -> PhotoFetcher:
    """Fetches photos and leaves them as they are."""
    limits = {"max_bytes": MAX_BYTES, "monotonic": time.monotonic, **limits}
    return PhotoFetcher(bucket, web, AsItIs(), FairBudget(ORIGINAL_BYTES), buckets, hosts, **limits)


def web_fetcher(web: PhotoDownload, *buckets: str, hosts: Sequence[str] = ("*",)) -> PhotoFetcher:
    """A fetcher of photos from the web, and of references to buckets that it must refuse."""
    return fetcher_of(NoBucket(), web, *buckets, hosts=hosts)


class Names:
    """A resolver with a table of answers in turn, the last one for ever; `asked` are the names looked up."""

    def __init__(self) -> None:
        self.table: dict[str, list[Sequence[str]]] = {
            name: [[ADDRESS]] for name in (HOST, OTHER_HOST, UNCERTIFIED_HOST)
        }
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        answers = self.table[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


class World(NamedTuple):
    """A fetcher, the host it talks to, and what it looks names up in."""

    fetcher: PhotoFetcher
    web: PhotoDownload
    host: PhotoHost
    names: Names
    network: Loopback

    async def fetch(self, url: str = URL) -> Photo:
        return await self.fetcher.fetch(url, "user")

    async def failure(self, url: str = URL) -> GenerationError:
        with pytest.raises((BadInput, Transient)) as caught:
            await self.fetch(url)
        return caught.value


@asynccontextmanager
async def running(
    authority: Authority,
    answer: Answer | None = None,
    tls: ssl.SSLContext | None = None,
    network: dict[str, Any] | None = None,
    hosts: Sequence[str] = ("*",),
    **limits: Any,
) -> AsyncIterator[World]:
    host, names = PhotoHost(), Names()
    host.answers["/album/me.jpg"] = answer or reply(photo())
    loopback = Loopback(host, **(network or {}))
    web = PhotoDownload(resolver=names, network=loopback, tls=tls or authority.client, **limits)
    async with host.serve(authority):
        yield World(web_fetcher(web, hosts=hosts), web, host, names, loopback)
        await web.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that signs the hosts' certificates."""
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def world(authority: Authority) -> AsyncIterator[World]:
    """A host that has a photo, and the way to it."""
    async with running(authority) as world:
        yield world
