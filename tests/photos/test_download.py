"""Downloads from an untrusted host: real TLS to a loopback server with an address that looks public."""

import asyncio
import gzip
import socket
import ssl
from pathlib import Path

import certifi
import httpcore
import pytest

from tests.support.photo_host import (
    ADDRESS,
    HOST,
    MAX_BYTES,
    OTHER_HOST,
    UNCERTIFIED_HOST,
    URL,
    Answer,
    Authority,
    Loopback,
    Names,
    PhotoHost,
    World,
    photo,
    reply,
    running,
    stream,
    web_fetcher,
)
from worker.errors import BadInput, Transient
from worker.jobs import Photo
from worker.photos import dns
from worker.photos.dns import resolve
from worker.photos.download import PhotoDownload, public_tls

JPEG = photo()
SECOND_ADDRESS = "93.184.216.35"
GZIP_BOMB = gzip.compress(bytes(20_000_000))


async def test_a_photo_is_read_from_the_checked_address_under_the_hosts_name(world: World) -> None:
    """SNI, certificate and Host header have the host's name."""
    assert await world.fetch() == Photo.of(JPEG, "image/jpeg")
    assert (world.names.asked, world.network.dialled, world.host.names) == ([HOST], [ADDRESS], [HOST])
    head = world.host.requests[0].lower()
    assert head.startswith("get /album/me.jpg?token=secret http/1.1\r\n")
    assert f"\r\nhost: {HOST}\r\n" in head
    assert "\r\naccept-encoding: identity\r\n" in head
    assert not {"cookie", "authorization", "referer"} & {
        line.partition(":")[0] for line in head.split("\r\n")
    }


@pytest.mark.parametrize(
    ("body", "content_type", "mime_type"),
    [(photo("PNG"), "text/html", "image/png"), (photo("WEBP"), "image/jpeg", "image/webp")],
)
async def test_a_photos_type_comes_from_its_bytes(
    world: World, body: bytes, content_type: str, mime_type: str
) -> None:
    """The header and the name do not count."""
    world.host.answers["/album/me.jpg"] = reply(body, content_type=content_type)
    assert (await world.fetch()).mime_type == mime_type


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        *((reply(status=status), "photo_missing") for status in (404, 410)),
        *((reply(status=status), "photo_forbidden") for status in (401, 403)),
        *((reply(status=status), "photo_refused") for status in (302, 304, 400, 451)),
        (reply(JPEG, status=206), "photo_refused"),
        (reply(b""), "photo_empty"),
        (reply(b"<html>Please log in</html>", content_type="image/jpeg"), "photo_not_an_image"),
        (reply(GZIP_BOMB, content_encoding="gzip"), "photo_refused"),
        (reply(JPEG + bytes(MAX_BYTES)), "photo_too_large"),
        (reply(b"", content_length="9" * 18), "photo_too_large"),
        (stream(JPEG + bytes(5_000)), "photo_too_large"),
        (reply(status=302, location="https://10.0.0.1/"), "forbidden_address"),
        (reply(status=302, location="//169.254.169.254/latest/"), "forbidden_address"),
        (reply(status=302, location=f"https://{HOST}:8443/"), "forbidden_address"),
        (reply(status=301, location=f"http://{HOST}/album/me.jpg"), "bad_url"),
        (reply(status=301, location="https://[broken/"), "bad_url"),
        (reply(status=307, location="/album/me.jpg"), "photo_refused"),
    ],
)
async def test_a_permanent_failure_is_bad_input_without_the_urls_secrets(
    world: World, answer: Answer, code: str
) -> None:
    """Each has its own code."""
    world.host.answers["/album/me.jpg"] = answer
    failure = await world.failure()
    assert isinstance(failure, BadInput)
    assert failure.code == code
    assert f"{HOST}/…/me.jpg" in failure.message
    assert "SECRET" not in str(failure)
    assert set(world.network.dialled) == {ADDRESS}


@pytest.mark.parametrize(
    ("answer", "retry_after_seconds"),
    [
        (reply(status=500), None),
        (reply(status=503, retry_after="120"), 120),
        (reply(status=429, retry_after="99999999"), 600),
        (reply(status=429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), None),
        (reply(status=408), None),
        (reply(status=425), None),
        (reply(JPEG, content_length=str(len(JPEG) + 1), close=True), None),
        (reply(JPEG, content_length="nonsense", close=True), None),
    ],
)
async def test_overload_and_broken_answers_are_transient(
    world: World, answer: Answer, retry_after_seconds: float | None
) -> None:
    """The host's Retry-After is respected up to ten minutes."""
    world.host.answers["/album/me.jpg"] = answer
    failure = await world.failure()
    assert isinstance(failure, Transient)
    assert (failure.code, failure.retry_after_seconds) == ("photo_host_unavailable", retry_after_seconds)
    assert "SECRET" not in str(failure)


async def test_a_dripping_host_is_cut_at_the_limit_of_the_whole_download(authority: Authority) -> None:
    """Each single read is short."""
    async with running(authority, stream(b"x", pause_seconds=0.02), timeout_seconds=0.3) as world:
        failure = await asyncio.wait_for(world.failure(), 15)
    assert isinstance(failure, Transient)
    assert failure.code == "photo_host_unavailable"


async def test_a_redirect_to_another_public_host_is_checked_and_followed(world: World) -> None:
    """That host is looked up and checked separately."""
    world.host.answers["/album/me.jpg"] = reply(status=302, location=f"https://{OTHER_HOST}/a")
    world.host.answers["/a"] = reply(status=301, location="../b?x=1")
    world.host.answers["/b"] = reply(JPEG)
    assert (await world.fetch()).data == JPEG
    assert world.names.asked[:2] == [HOST, OTHER_HOST]
    assert "SECRET" not in "".join(world.host.requests[1:])


async def test_redirect_to_a_host_inside(world: World) -> None:
    """A redirect to a name that resolves to a private address is refused before any byte goes there."""
    world.names.table["inside.example.com"] = [["192.168.0.10"]]
    world.host.answers["/album/me.jpg"] = reply(status=302, location="https://inside.example.com/")
    assert (await world.failure()).code == "photo_host_unknown"
    assert world.network.dialled == [ADDRESS]


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], [ADDRESS, "10.0.0.1"], ["fd00::1", ADDRESS], ["::ffff:127.0.0.1"], ["fe80::1%eth0"], []],
)
async def test_every_address_must_be_public(world: World, addresses: list[str]) -> None:
    """A host with one address that is not public is refused whole, without a connection."""
    world.names.table[HOST] = [addresses]
    assert (await world.failure()).code == "photo_host_unknown"
    assert world.network.dialled == []


async def test_a_host_that_changes_its_address_after_the_check_is_not_followed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to the checked address only."""
    world.names.table[HOST] = [[ADDRESS], ["127.0.0.1"]]
    world.host.answers["/album/me.jpg"] = reply(JPEG, connection="close")
    assert (await world.fetch()).data == JPEG
    assert (await world.fetch()).data == JPEG
    assert (world.names.asked, world.network.dialled) == ([HOST], [ADDRESS, ADDRESS])
    loop, now = asyncio.get_running_loop(), asyncio.get_running_loop().time
    monkeypatch.setattr(loop, "time", lambda: now() + dns.REMEMBERED_SECONDS)
    assert (await world.failure()).code == "photo_host_unknown"
    assert (world.names.asked, world.network.dialled) == ([HOST, HOST], [ADDRESS, ADDRESS])


async def test_the_next_checked_address_is_tried_if_one_does_not_answer(authority: Authority) -> None:
    """Of the same host."""
    async with running(authority, network={"dead": [SECOND_ADDRESS]}) as world:
        world.names.table[HOST] = [[SECOND_ADDRESS, ADDRESS]]
        assert (await world.fetch()).data == JPEG
    assert world.network.dialled == [SECOND_ADDRESS, ADDRESS]


async def test_certificate_for_another_name(world: World) -> None:
    """A certificate that does not name the host is refused, and no request is sent."""
    assert (await world.failure(f"https://{UNCERTIFIED_HOST}/album/me.jpg")).code == "photo_tls_invalid"
    assert world.host.requests == []


async def test_only_public_certificate_authorities_are_trusted(authority: Authority) -> None:
    """By default."""
    host, names = PhotoHost(), Names()
    web = PhotoDownload(resolver=names, network=Loopback(host))
    async with host.serve(authority):
        with pytest.raises(BadInput, match="photo_tls_invalid"):
            await web_fetcher(web).fetch(URL, "user")
    assert host.requests == []


@pytest.mark.parametrize(
    ("versions", "group", "taken"),
    [
        ("both", None, True),
        ("both", "prime256v1", True),
        ("both", "secp384r1", True),
        ("1.2", "secp384r1", True),
        ("1.2", "X25519", True),
        ("1.3", "prime256v1", True),
        ("1.3", "ffdhe2048", False),
        ("1.3", "ffdhe8192", False),
        ("both", "ffdhe8192", False),
    ],
)
async def test_a_host_cannot_make_us_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: str, group: str | None, taken: bool
) -> None:
    """Any curve is accepted, but no finite field: a large one would block the loop for 200 ms."""
    authority = Authority(tmp_path)
    if group:
        authority.server.set_ecdh_curve(group)
    if versions == "1.2":
        authority.server.maximum_version = ssl.TLSVersion.TLSv1_2
    if versions == "1.3":
        authority.server.minimum_version = ssl.TLSVersion.TLSv1_3
    monkeypatch.setattr(certifi, "where", lambda: str(authority.ca_file))
    public_tls.cache_clear()
    host, names = PhotoHost(), Names()
    host.answers["/album/me.jpg"] = reply(JPEG)
    web = PhotoDownload(resolver=names, network=Loopback(host))
    async with host.serve(authority):
        if taken:
            assert (await web_fetcher(web).fetch(URL, "user")).data == JPEG
        else:
            with pytest.raises(Transient, match=r"photo_host_unavailable.*SSL"):
                await web_fetcher(web).fetch(URL, "user")
    await web.close()
    public_tls.cache_clear()


def test_a_host_is_offered_no_expensive_cipher() -> None:
    """In TLS 1.2 the host chooses the Diffie-Hellman parameters, and renegotiation repeats the handshake."""
    for tls in public_tls():
        assert {each["kea"] for each in tls.get_ciphers()} <= {"kx-ecdhe", "kx-any"}
        assert tls.options & ssl.OP_NO_RENEGOTIATION
        assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, True)


VENDOR_ERRORS = [
    error
    for error in (getattr(httpcore, name) for name in httpcore.__all__)
    if isinstance(error, type)
    and issubclass(error, Exception)
    and error is not httpcore.ConnectionNotAvailable
]  # the one left out is the pool's own signal: it never leaves the pool, which would try again for ever


@pytest.mark.parametrize("error", [*VENDOR_ERRORS, ssl.SSLError, OSError, TimeoutError, ConnectionResetError])
async def test_every_error_of_httpcore_tls_and_sockets_is_transient(
    authority: Authority, error: type[Exception]
) -> None:
    """No vendor's exception gets out."""
    async with running(authority, network={"failure": error("boom")}) as world:
        failure = await world.failure()
    assert isinstance(failure, Transient)
    assert failure.code == "photo_host_unavailable"


@pytest.mark.parametrize("number", [socket.EAI_NONAME, socket.EAI_NODATA])
async def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A name that the resolver does not know has no addresses."""

    def fail(*_args: object, **_options: object) -> None:
        raise socket.gaierror(number, "whatever the text")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert await resolve(HOST) == []


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_AGAIN), socket.gaierror(socket.EAI_FAIL)])
async def test_a_failed_dns_lookup_is_retried_later(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The resolver could not answer."""

    def fail(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(Transient, match="photo_host_unavailable"):
        await resolve(HOST)


@pytest.mark.parametrize("address", ["93.184.216.34", "127.0.0.1"])
async def test_an_address_is_looked_up_only_once(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Connecting does not look it up again."""

    def fail(*args: object, **_options: object) -> None:
        raise AssertionError(f"looked up {args}")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert await resolve(address) == [address]
    async with running(authority) as world:
        assert (await world.fetch()).data == JPEG
