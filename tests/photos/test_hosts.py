"""How photo hosts behave in practice, and what happens to an order's photo: real TLS to a host on loopback.

The answers are those that users reported from S3, R2, Google, Azure, Supabase, Cloudinary and share links.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.photo_host import (
    ADDRESS,
    HOST,
    OTHER_HOST,
    URL,
    Answer,
    Authority,
    World,
    photo,
    reply,
    running,
)
from worker.app import Worker
from worker.errors import BadInput, Transient
from worker.photos import dns, download
from worker.photos.address import is_public, parse_photo_url
from worker.photos.hosts import AllowedHosts, RunHosts
from worker.settings import InvalidSettings, Settings

JPEG = photo()
DEAD = [f"2606:2800:220:1::{number}" for number in range(1, 6)]
OLD = "Wed, 21 Oct 2026 07:28:00 GMT"
LATER = "Wed, 21 Oct 2026 07:29:30 GMT"
ASCTIME = "Wed Oct 21 07:28:00 2026"


async def test_silent_ipv6_addresses_do_not_hide_a_working_ipv4(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five addresses that never answer cost a fraction of a second; no connection is left open."""
    monkeypatch.setattr(download, "_CONNECT_SECONDS", 3600.0)
    async with running(authority, network={"silent": DEAD}) as world:
        world.names.table[HOST] = [[*DEAD, ADDRESS]]
        assert (await world.fetch()).data == JPEG
    assert world.network.dialled == [DEAD[0], ADDRESS]
    assert world.network.given_up == [DEAD[0]]


async def test_a_photo_in_small_tls_records_is_fetched(authority: Authority) -> None:
    """Some hosts send as much as fits into a packet; each record has 22 bytes of its own."""
    data = JPEG.ljust(1_700_000, b"\0")

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data))
        for start in range(0, len(data), 512):
            writer.write(data[start : start + 512])
        await writer.drain()

    async with running(authority, answer) as world:
        hosts = RunHosts(AllowedHosts("*"))
        assert await world.web.get(parse_photo_url(URL), "user", hosts, len(data)) == data


async def test_an_address_that_refuses_is_followed_at_once(authority: Authority) -> None:
    """A refusal causes no wait, and only a few of many addresses are tried."""
    many = [*DEAD, ADDRESS, *(f"93.184.216.{number}" for number in range(40, 90))]
    async with running(authority, network={"dead": many}) as world:
        world.names.table[HOST] = [many]
        failure = await world.failure()
    assert (type(failure), failure.code) == (Transient, "photo_host_unavailable")
    assert world.network.dialled[:4] == [DEAD[0], ADDRESS, DEAD[1], "93.184.216.40"]
    assert len(world.network.dialled) == 8


async def test_every_address_is_checked_before_any_is_dialed(world: World) -> None:
    """If one of many addresses is private, none is connected to."""
    world.names.table[HOST] = [[*DEAD, ADDRESS, *(f"93.184.216.{n}" for n in range(40, 90)), "10.0.0.1"]]
    assert all(is_public(address) for address in world.names.table[HOST][0][:-1])
    assert (await world.failure()).code == "photo_host_unknown"
    assert world.network.dialled == []


async def test_a_name_with_thousands_of_addresses_does_not_hold_the_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A customer's own name server may list as many; the first of them are enough to connect."""
    checked: list[str] = []

    def noted(address: str) -> bool:
        checked.append(address)
        return is_public(address)

    monkeypatch.setattr(dns, "is_public", noted)
    world.names.table[HOST] = [[ADDRESS, *(f"2606:2800:220:1::{number:x}" for number in range(1, 4000))]]
    assert (await world.fetch()).data == JPEG
    assert len(checked) == dns.MAX_ADDRESSES


async def test_names_are_forgotten_once_they_are_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Customers may name any number of hosts to a worker that stays for weeks."""
    monkeypatch.setattr(dns, "REMEMBERED_SECONDS", 0.0)

    async def resolver(host: str) -> list[str]:
        return [ADDRESS]

    lookups = dns.Lookups(resolver)
    for number in range(20):
        await lookups.addresses(f"host-{number}.example.com", "user")
    assert len(lookups._known) == 1


async def test_a_fetch_that_is_given_up_leaves_no_connection_under_way(authority: Authority) -> None:
    """The end of a photo's time ends every attempt to connect."""
    async with running(authority, network={"silent": DEAD}, timeout_seconds=0.4) as world:
        world.names.table[HOST] = [DEAD]
        failure = await world.failure()
        assert isinstance(failure, Transient)
        assert sorted(world.network.given_up) == sorted(world.network.dialled)
        assert len(asyncio.all_tasks()) <= 2  # this test and the host


@pytest.mark.parametrize(
    "value",
    ["aws-chunked", "none", "identity", "UTF-8", "utf-8", "binary", "base64", "", "aws-chunked, None"],
)
async def test_an_encoding_that_is_no_compression_is_ignored(world: World, value: str) -> None:
    """A host that labels plain bytes with something odd still has its photo taken: the bytes decide."""
    world.host.answers["/album/me.jpg"] = reply(JPEG, content_encoding=value)
    assert (await world.fetch()).data == JPEG


@pytest.mark.parametrize(
    "value", ["gzip", "X-GZIP", "br", "deflate", "zstd", "compress", "aws-chunked, gzip"]
)
async def test_a_compression_is_refused_as_before(world: World, value: str) -> None:
    """Nothing is ever unpacked, so a photo that came compressed is refused."""
    world.host.answers["/album/me.jpg"] = reply(JPEG, content_encoding=value)
    failure = await world.failure()
    assert (type(failure), failure.code) == (BadInput, "photo_refused")


async def test_any_type_is_accepted_last(world: World) -> None:
    """Hosts that answer 406 to a list of types alone send the photo; types we take come first."""
    await world.fetch()
    head = world.host.requests[0].lower()
    (accept,) = [line for line in head.split("\r\n") if line.startswith("accept:")]
    assert accept.startswith("accept: image/jpeg") and accept.endswith("*/*")


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/my photos/me 1.jpg", "/my%20photos/me%201.jpg"),
        ("/caf\xe9.jpg", "/caf%E9.jpg"),
        ("/café.jpg".encode().decode("latin-1"), "/caf%C3%A9.jpg"),
        (f"https://{OTHER_HOST}/a b.jpg?x=1 2", "/a%20b.jpg"),
        (f"//{OTHER_HOST}/\xe4.jpg", "/%E4.jpg"),
        ("/a%20b.jpg", "/a%20b.jpg"),
    ],
)
async def test_a_redirect_with_spaces_or_raw_bytes_is_followed(
    world: World, location: str, asked: str
) -> None:
    """The next request has exactly the bytes that the host wrote, encoded."""
    world.host.answers["/album/me.jpg"] = reply(status=302, location=location)
    world.host.answers[asked] = reply(JPEG)
    assert (await world.fetch()).data == JPEG
    assert world.host.requests[-1].split()[1].partition("?")[0] == asked


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("https://10.0.0.1/my photo.jpg", "forbidden_address"),
        ("//127.0.0.1/\xe9", "forbidden_address"),
        ("https://exa mple.com/a.jpg", "bad_url"),
        ("https://caf\xe9.local/a.jpg", "bad_url"),
        ("https://user @photos.example.com/a.jpg", "bad_url"),
        ("/a\\b.jpg", "bad_url"),
        ("http://photos.example.com/my photo.jpg", "bad_url"),
    ],
)
async def test_a_redirect_is_checked_whatever_is_in_it(world: World, location: str, code: str) -> None:
    """Spaces and bytes make no way around the guard: host and scheme are judged as ever."""
    world.host.answers["/album/me.jpg"] = reply(status=302, location=location)
    assert (await world.failure()).code == code
    assert len(world.host.requests) == 1


@pytest.mark.parametrize("status", [202, 408, 420, 423, 425, 429, 500, 503])
async def test_a_photo_that_is_not_ready_is_asked_for_again(world: World, status: int) -> None:
    """Being made, locked or too many at once: none of it is the order's fault."""
    world.host.answers["/album/me.jpg"] = reply(status=status, retry_after="7")
    failure = await world.failure()
    assert isinstance(failure, Transient)
    assert failure.retry_after_seconds == 7


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": LATER, "date": OLD}, 90),
        ({"retry_after": LATER, "date": ASCTIME}, 90),
        ({"retry_after": OLD, "date": LATER}, 0),
        ({"retry_after": "Thu, 22 Oct 2026 07:28:00 GMT", "date": OLD}, 600),
        ({"retry_after": LATER}, None),
        ({"retry_after": LATER, "date": "yesterday"}, None),
        ({"retry_after": "soon", "date": OLD}, None),
        ({"retry_after": "Wed, 99 Xyz 99999999999 99:99:99 GMT", "date": OLD}, None),
        ({"retry_after": "-5", "date": OLD}, None),
    ],
)
async def test_a_date_to_come_back_counts_from_the_hosts_own_clock(
    world: World, headers: dict[str, Any], seconds: float | None
) -> None:
    """A date in `Retry-After` is compared with the answer's `Date`, not with our clock."""
    world.host.answers["/album/me.jpg"] = reply(status=503, **headers)
    failure = await world.failure()
    assert isinstance(failure, Transient)
    assert failure.retry_after_seconds == seconds


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><html><head><title>Dropbox</title></head></html>",
        b"\xef\xbb\xbf\n  <!doctype HTML>",
        b"<html lang=en>",
        b'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">',
        b"<!-- a viewer --><html>",
        b"<HEAD><script>location='/login'</script>",
    ],
)
async def test_a_web_page_is_called_a_web_page(world: World, body: bytes) -> None:
    """A customer who sent a share link learns what is wrong, and with which photo."""
    world.host.answers["/album/me.jpg"] = reply(body, content_type="image/jpeg")
    failure = await world.failure()
    assert (type(failure), failure.code) == (BadInput, "photo_not_an_image")
    assert failure.message.startswith(f"{HOST}/…/me.jpg is a web page, not a photo, as share links often are")


XML = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message>{}</Error>'
EXPIRED = {
    "s3": (403, XML.format("AccessDenied", "Request has expired", "<X-Amz-Expires>60</X-Amz-Expires>")),
    "s3 session": (400, XML.format("ExpiredToken", "The provided token has expired.", "")),
    "r2": (403, XML.format("ExpiredRequest", "Request has expired", "")),
    "google": (400, XML.format("ExpiredToken", "Invalid argument.", "<Details>x</Details>")),
    "azure": (
        403,
        XML.format(
            "AuthenticationFailed",
            "Server failed to authenticate the request. Make sure the value of Authorization header is formed"
            " correctly including the signature.\nRequestId:1",
            "<AuthenticationErrorDetail>Signature not valid in the specified time frame: Start [Tue, 06 Aug"
            " 2026 07:52:04 GMT] - Expiry [Tue, 06 Aug 2026 15:52:04 GMT]</AuthenticationErrorDetail>",
        ),
    ),
    "azure without details": (403, XML.format("AuthenticationFailed", "Server failed to authenticate.", "")),
    "supabase": (
        400,
        r'{"statusCode":"400","error":"InvalidJWT","message":"\"exp\" claim timestamp check failed"}',
    ),
    "supabase, old": (400, '{"statusCode":"400","error":"jwt expired","message":"jwt expired"}'),
    "facebook": (403, "URL signature expired"),
}
FORBIDDEN = {
    "s3": (403, XML.format("AccessDenied", "Access Denied", ""), "photo_forbidden"),
    "azure": (
        403,
        XML.format("AuthenticationFailed", "Server failed.", "Signature did not match."),
        "photo_forbidden",
    ),
    "supabase": (
        400,
        '{"statusCode":"400","error":"InvalidSignature","message":"signature verification failed"}',
        "photo_refused",
    ),
    "nothing": (403, "", "photo_forbidden"),
    "late": (403, f"{'x' * 5000} expired", "photo_forbidden"),
}


@pytest.mark.parametrize("name", EXPIRED)
async def test_an_expired_link_is_called_expired(world: World, name: str) -> None:
    """For every known host; the message does not contain the signature."""
    status, body = EXPIRED[name]
    world.host.answers["/album/me.jpg"] = reply(body.encode(), status=status)
    failure = await world.failure(f"https://{HOST}/album/me.jpg?sig=SECRET&se=2026-08-06")
    assert (type(failure), failure.code) == (BadInput, "photo_link_expired")
    assert failure.message.startswith(f"{HOST}/…/me.jpg: the link has expired")
    assert "SECRET" not in str(failure)


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_a_link_that_is_wrong_is_not_called_expired(world: World, name: str) -> None:
    """Only the host's own statement counts, and it is not quoted."""
    status, body, code = FORBIDDEN[name]
    world.host.answers["/album/me.jpg"] = reply(body.encode(), status=status)
    failure = await world.failure(f"https://{HOST}/album/me.jpg?sig=SECRET&se=2026-08-06")
    assert (type(failure), failure.code) == (BadInput, code)
    assert "Server failed" not in failure.message and "xxx" not in failure.message


async def test_a_refusal_that_never_ends_is_still_a_refusal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that drips its reason does not delay the photo."""
    monkeypatch.setattr(download, "_REASON_SECONDS", 0.05)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 100000\r\n\r\n<Error>")
        await writer.drain()
        await reader.read(1)
        writer.close()

    answer: Answer = drip
    world.host.answers["/album/me.jpg"] = answer
    assert (await world.failure()).code == "photo_forbidden"


async def test_every_refusal_names_the_photo(world: World) -> None:
    """The customer learns which of many photos is meant."""
    world.names.table[HOST] = [["10.0.0.1"]]
    assert (await world.failure()).message.startswith(
        f"{HOST}/…/me.jpg: the host {HOST} was not found on the public internet"
    )


@pytest.mark.parametrize("contact", [None, "photos@example.com", "https://example.com/our-worker"])
async def test_hosts_are_told_whom_to_write_to(authority: Authority, contact: str | None) -> None:
    """Hosts that refuse agents without a contact get the one that is set, others the bare name."""
    async with running(authority, contact=contact) as world:
        await world.fetch()
    agent = f"generation-worker/1 (+{contact})" if contact else "generation-worker/1"
    assert f"\r\nuser-agent: {agent}\r\n" in world.host.requests[0].lower()


def test_the_contact_is_a_setting() -> None:
    """`PHOTO_CONTACT` reaches the photo host; a value that is invalid in a header is refused at the start."""
    base = {
        "SUPABASE_URL": "https://abc.supabase.co",
        "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x",
        "GEMINI_API_KEY": "key",
    }
    assert Settings.from_env(base, "w").photo_contact is None
    settings = Settings.from_env(base | {"PHOTO_CONTACT": " me@example.com "}, "w")
    assert settings.photo_contact == "me@example.com"
    assert Worker(settings)._web._headers["User-Agent"] == ("generation-worker/1 (+me@example.com)")
    for value in ("a b@example.com", "a)b", "ü@example.com", "a\r\nX: y", "x" * 201, "me"):
        with pytest.raises(InvalidSettings, match="PHOTO_CONTACT"):
            Settings.from_env(base | {"PHOTO_CONTACT": value}, "w")
