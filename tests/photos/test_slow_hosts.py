"""Photo hosts that attack the event loop, which all runs share, delay no other user."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import h11
import pytest

from bench.hostile_hosts import attacked, everything, hostile_hosts
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
from worker.errors import BadInput, GenerationError, PhotoDelayed, Transient
from worker.photos import connection as photo_stream
from worker.photos import dns, download
from worker.photos.address import parse_photo_url
from worker.photos.dns import Lookups, resolve
from worker.photos.hosts import MAX_TIMED_OUT_HOSTS, AllowedHosts

JPEG = photo()
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
SILENT = 0.2
"""Seconds that stand for the five a host has."""


def sends(*pieces: bytes, again: bytes = b"", pause_seconds: float = 0.0) -> Answer:
    """Send the pieces, then `again` without end, each after a pause; nothing more without it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
            while again:
                writer.write(again)
                await writer.drain()
                await asyncio.sleep(pause_seconds)
            await reader.read(1)
        writer.close()

    return answer


def wait_for_hosts(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The time that a host has for its first byte, and again for each 16 kB."""
    monkeypatch.setattr(photo_stream, "FIRST_BYTE_SECONDS", seconds)
    monkeypatch.setattr(photo_stream, "RATE_SECONDS", seconds)


@pytest.fixture
async def hasty(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A world in which a host times out quickly."""
    wait_for_hosts(monkeypatch, SILENT)
    async with running(authority) as world:
        yield world


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (sends(again=b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50), "too many 1xx"),
        (sends(again=b"HTTP/1.1 103\r\n\r\n"), "too many 1xx"),
        (sends(again=b"HTTP/1.1 103\r\nlink: " + b"x" * 4000 + b"\r\n\r\n"), "too many headers"),
        (sends(OK, again=b"a: " + b"b" * 1000 + b"\r\n"), "too many headers"),
        (sends(OK, b"a:\r\n" * 300), "too many headers"),
        (sends(OK + b"a: ", again=b" " * 1000), "too many headers"),
        (sends(CHUNKED, again=b"1\r\nx\r\n" * 100), "a few bytes"),
        (sends(CHUNKED, again=b"1\r\nx\r\n"), "a few bytes"),
        (sends(CHUNKED, again=b"1;" + b"e" * 200 + b"\r\nx\r\n"), "a few bytes"),
        (sends(CHUNKED + b"1;", again=b" " * 1000), "invalid chunks"),
        (sends(CHUNKED, b"1;" + b" " * 90_000 + b"\n\r\nx"), "invalid chunks"),
        (sends(CHUNKED, b"1;" + b" " * 100 + b"\n\r\nx"), "invalid chunks"),
        (sends(CHUNKED, b"zz\r\n"), "invalid chunks"),
        (sends(CHUNKED, b"0\r\n", again=b"a: b\r\n" * 50), "too many trailers"),
        (sends(OK + b"\r\n", again=b"x"), "a few bytes"),
    ],
)
async def test_an_answer_without_end_is_refused(world: World, answer: Answer, said: str) -> None:
    """Answers that cost more parsing than they contain are refused long before the photo's timeout."""
    world.host.answers["/album/me.jpg"] = answer
    failure = await asyncio.wait_for(world.failure(), 15)
    assert isinstance(failure, BadInput)
    assert failure.code == "photo_refused"
    assert failure.message.startswith(f"{HOST}/…/me.jpg: the host ")
    assert said in failure.message


class Steps:
    """The most that h11 gets and parses in one step of the event loop, for one connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self.events: Counter[tuple[int, int]] = Counter()
        self.bytes: Counter[tuple[int, int]] = Counter()
        next_event, receive_data = h11.Connection.next_event, h11.Connection.receive_data

        def counted_event(connection: h11.Connection) -> object:
            if connection.our_role is h11.CLIENT:
                self.events[id(connection), self.number] += 1
            return next_event(connection)

        def counted_data(connection: h11.Connection, data: bytes) -> None:
            self.bytes[id(connection), self.number] += len(data)
            receive_data(connection, data)

        monkeypatch.setattr(h11.Connection, "next_event", counted_event)
        monkeypatch.setattr(h11.Connection, "receive_data", counted_data)

    async def count(self) -> None:
        """Be one of the loop's tasks."""
        while True:
            self.number += 1
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "answer",
    [
        sends(again=b"HTTP/1.1 103\r\n\r\n" * 1000),
        sends(OK + b"a:\r\n" * 4000),
        sends(CHUNKED + b"1\r\nx\r\n" * 10_000),
        sends(CHUNKED + b"1\r\nx\r\n" * 60, again=(b"400\r\n" + bytes(1024) + b"\r\n") * 100),
        sends(CHUNKED, again=(b"100\r\n" + bytes(256) + b"\r\n") * 100),
        sends(CHUNKED + b"0\r\n" + b"a:\r\n" * 10_000),
        sends(OK + b"connection: close\r\ncontent-length: 90000\r\n\r\n" + bytes(90_000)),
    ],
)
async def test_a_step_of_the_loop_is_short(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """However much 14 hosts have sent, others have their turn after a few kilobytes and a few events."""
    steps = Steps(monkeypatch)
    world.host.answers = {f"/{number}": answer for number in range(14)}
    counting = asyncio.create_task(steps.count())
    failures = await asyncio.gather(*(world.failure(f"https://{HOST}/{number}") for number in range(14)))
    counting.cancel()
    assert {failure.code for failure in failures} <= {
        "photo_refused",
        "photo_too_large",
        "photo_not_an_image",
    }
    assert max(steps.events.values()) <= photo_stream.FREE_PIECES + 16_384 // photo_stream.PIECE_BYTES + 4
    assert max(steps.bytes.values(), default=0) <= 16_384


async def test_encryption_alone_is_refused(tmp_path: Path) -> None:
    """A host that sends TLS session tickets instead of a photo is cut off."""
    authority = Authority(tmp_path)
    authority.server.num_tickets = 1000
    async with running(authority) as world:
        failure = await world.failure()
    assert failure.code == "photo_refused"
    assert "more TLS overhead than photo data" in failure.message


async def test_what_comes_after_an_answer_is_not_taken_for_the_next(world: World) -> None:
    """Bytes that a host sends beyond its answer, before it is asked again, never reach a parser."""
    more = CHUNKED + b"1;" + b" " * 15_000 + b"\n\r\nx"
    first = OK + b"content-length: %d\r\n\r\n" % len(JPEG) + JPEG

    async def twice(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first + more)
        await writer.drain()

    world.host.answers["/album/me.jpg"] = twice
    for number in range(1, 4):
        assert (await world.fetch()).data == JPEG
        assert (len(world.network.dialled), len(world.host.requests)) == (number, number)


def test_the_collector_leaves_alone_what_is_loaded() -> None:
    """A full collection, which attacks bring about, does not go through the SDK's 80 000 objects."""
    code = "import gc; from worker.gemini.sdk import connect; connect('key'); print(gc.get_freeze_count())"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50_000


@pytest.mark.slow
async def test_all_attacks_at_once() -> None:
    """Three users' orders bring every attack there is: the loop never computes for 100 ms at a stretch."""
    with hostile_hosts() as hosts:
        lag, ends = await attacked(hosts, everything(hosts, 3), seconds=3)
    assert lag.worst_busy_seconds < 0.1
    assert ends["photo_refused"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (sends(), "did not answer within"),
        (sends(again=b"H", pause_seconds=0.05), "sent less than 16 kB"),
        (sends(b"HTTP/1.1 103\r\n\r\n"), "sent less than 16 kB"),
        (sends(OK + b"content-length: 90000\r\n\r\n" + bytes(10_000)), "sent less than 16 kB"),
        (
            sends(CHUNKED, again=b"400\r\n" + bytes(1024) + b"\r\n", pause_seconds=0.05),
            "sent less than 16 kB",
        ),
        (sends(CHUNKED, b"0\r\n", again=b"a", pause_seconds=0.05), "sent less than 16 kB"),
    ],
)
async def test_a_host_that_is_slow_is_not_waited_for_again(
    hasty: World, monkeypatch: pytest.MonkeyPatch, answer: Answer, said: str
) -> None:
    """The worker waits only briefly for each part of a response, and in a run only once for each user."""
    hasty.host.answers["/album/me.jpg"] = answer
    failure = await asyncio.wait_for(hasty.failure(), 15)
    assert (isinstance(failure, Transient), failure.code) == (True, "photo_host_unavailable")
    assert said in failure.message
    assert len(hasty.host.requests) == 1
    for url in (URL, f"https://{HOST}/another.jpg"):
        failure = await hasty.failure(url)
        assert (isinstance(failure, Transient), failure.code) == (True, "photo_host_unavailable")
        assert "in this run" in failure.message
    assert len(hasty.host.requests) == 1
    hasty.host.answers["/album/me.jpg"] = reply(JPEG)
    wait_for_hosts(monkeypatch, 60)
    assert (await hasty.fetcher.fetch(URL, "another user")).data == JPEG


async def test_a_host_that_keeps_its_pace_has_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that sends enough in every window is not late, however many windows it takes."""
    wait_for_hosts(monkeypatch, 0.6)
    body = JPEG + bytes(99_000 - len(JPEG))

    async def steady(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 20_000):
            writer.write(body[start : start + 20_000])
            await asyncio.sleep(0.2)

    world.host.answers["/album/me.jpg"] = steady
    assert (await world.fetch()).data == body


async def test_a_host_that_cannot_be_connected_to_is_not_dialed_again(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection timeout costs a user the time only once."""
    monkeypatch.setattr(download, "_CONNECT_SECONDS", SILENT)
    async with running(authority, network={"silent": [ADDRESS]}) as world:
        for _ in range(3):
            assert (await world.failure()).code == "photo_host_unavailable"
        assert world.network.dialled == [ADDRESS]


async def test_names_are_free_so_their_number_is_bounded(world: World) -> None:
    """After some silent hosts a user is waited for at those alone that have answered; other users as ever."""
    world.host.answers = {"/album/me.jpg": reply(JPEG), "/b": reply(JPEG)}
    assert (await world.fetch()).data == JPEG
    hosts = world.fetcher._hosts
    for number in range(MAX_TIMED_OUT_HOSTS):
        hosts.timed_out(parse_photo_url(f"https://host{number}.example.com/"), "user")
    assert "other hosts" in (await world.failure(f"https://{OTHER_HOST}/b")).message
    assert (await world.fetch(f"https://{HOST}/b")).data == JPEG
    assert (await world.fetcher.fetch(f"https://{OTHER_HOST}/b", "another user")).data == JPEG


class Silence:
    """A resolver whose answers wait until `end` is set, for every name but those of the tests' hosts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.end = threading.Event()
        self.asked: list[str] = []
        self._lookup = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, *args: object, **options: object) -> object:
        self.asked.append(host)
        if host.startswith("silent"):
            self.end.wait(20)
        return self._lookup("127.0.0.1", 443, type=socket.SOCK_STREAM)


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silence]:
    """DNS servers that do not answer, and a short time to wait for them."""
    monkeypatch.setattr(dns, "LOOKUP_SECONDS", SILENT)
    silence = Silence(monkeypatch)
    yield silence
    silence.end.set()


async def test_silent_dns_servers_delay_no_other_lookup(silence: Silence) -> None:
    """While 14 lookups of a user hang, the loop's own lookups succeed at once."""
    lookups = Lookups(resolve)
    names = [f"silent{number}.example.com" for number in range(14)]
    tasks = [asyncio.create_task(lookups.addresses(name, "user")) for name in names]
    while len(silence.asked) < dns.MAX_LOOKUPS_OF_USER:
        await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    await asyncio.wait_for(loop.getaddrinfo("supabase.example.com", 443), 15)
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert {getattr(failure, "code", failure) for failure in failures} == {"photo_host_unavailable"}
    assert sum(name.startswith("silent") for name in silence.asked) == dns.MAX_LOOKUPS_OF_USER
    await lookups.close()


async def test_a_lookup_counts_until_its_thread_ends(
    silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose names hang has no further thread, another user has; and has room again afterwards."""
    lookups = Lookups(resolve)

    async def code(name: str, user: str) -> str:
        with pytest.raises(GenerationError) as caught:
            await lookups.addresses(name, user)
        return caught.value.code

    names = [f"silent{number}.example.com" for number in range(dns.MAX_LOOKUPS_OF_USER)]
    await asyncio.gather(*(code(name, "user") for name in names))
    assert await code("quick.example.com", "user") == "photo_host_unavailable"
    monkeypatch.setattr(dns, "LOOKUP_SECONDS", 15)
    assert await code("quick.example.com", "another user") == "photo_host_unknown"  # 127.0.0.1
    silence.end.set()
    assert await code("prompt.example.com", "user") == "photo_host_unknown"
    assert silence.asked == [*names, "quick.example.com", "prompt.example.com"]
    await lookups.close()


async def test_a_lookup_for_which_others_leave_no_room_is_delayed_and_not_failed(
    silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name was not looked up, so the photo is not at fault. A user's own lookups are no excuse."""
    monkeypatch.setattr(dns, "MAX_LOOKUPS", dns.MAX_LOOKUPS_OF_USER)
    lookups = Lookups(resolve)

    async def failure(name: str, user: str) -> type[GenerationError]:
        with pytest.raises(GenerationError) as caught:
            await lookups.addresses(name, user)
        return caught.type

    names = [f"silent{number}.example.com" for number in range(dns.MAX_LOOKUPS_OF_USER)]
    await asyncio.gather(*(failure(name, "user") for name in names))
    assert await failure("quick.example.com", "another user") is PhotoDelayed
    assert await failure("quick.example.com", "user") is Transient
    silence.end.set()
    await lookups.close()


async def test_a_lookup_without_a_thread_is_a_failed_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the photo is retried later, and the run continues."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(Transient, match="could not be resolved"):
        await Lookups(resolve).addresses("photos.example.com", "user")


async def test_a_name_is_looked_up_once_for_all_who_ask(
    silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many photos of one host are one lookup, and for a minute no further one."""
    monkeypatch.setattr(dns, "LOOKUP_SECONDS", 15)
    lookups = Lookups(resolve)
    asked = (lookups.addresses("quick.example.com", f"user {number}") for number in range(14))
    await asyncio.gather(*asked, return_exceptions=True)
    with pytest.raises(BadInput):
        await lookups.addresses("quick.example.com", "user")
    assert silence.asked == ["quick.example.com"]


async def test_a_host_with_thousands_of_addresses_is_checked_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each photo of a host costs no check of all its addresses; those that are not checked are not used."""
    checked: list[str] = []

    def check(address: str) -> bool:
        checked.append(address)
        return True

    monkeypatch.setattr(dns, "is_public", check)
    world.names.table[HOST] = [[ADDRESS, *(f"93.185.{n // 250}.{n % 250}" for n in range(4000))]]
    for _ in range(5):
        await world.fetch()
    assert len(checked) == dns.MAX_ADDRESSES
    assert set(world.network.dialled) <= set(checked)


def test_a_process_ends_while_a_lookup_hangs() -> None:
    """A silent DNS server does not keep a worker from stopping."""
    code = """
import asyncio, socket, time
socket.getaddrinfo = lambda *args, **options: time.sleep(60)
from worker.photos import dns as lookup
lookup.LOOKUP_SECONDS = 0.1
async def main():
    lookups = lookup.Lookups(lookup.resolve)
    try:
        await lookups.addresses("silent.example.com", "user")
    except lookup.HostTimedOut:
        print("late")
asyncio.run(main())
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=40)
    assert (done.stdout, done.stderr) == ("late\n", "")


@pytest.mark.parametrize(
    "addresses", [[], ["10.0.0.1"], ["127.0.0.1"], ["fd00::1", ADDRESS], ["169.254.169.254"]]
)
async def test_a_name_inside_is_told_like_one_that_does_not_exist(world: World, addresses: list[str]) -> None:
    """Nobody can find out by an order or a redirect which names the worker's network has."""
    world.names.table[OTHER_HOST] = [addresses]
    expected = f"the host {OTHER_HOST} was not found on the public internet"
    failure = await world.failure(f"https://{OTHER_HOST}/b")
    assert (type(failure), failure.code) == (BadInput, "photo_host_unknown")
    assert failure.message == f"{OTHER_HOST}/b: {expected}"
    world.host.answers["/album/me.jpg"] = reply(status=302, location=f"https://{OTHER_HOST}/b")
    failure = await world.failure()
    assert (failure.code, failure.message) == ("photo_host_unknown", f"{OTHER_HOST}/b: {expected}")


@pytest.mark.parametrize(
    ("names", "allowed", "refused"),
    [
        (["cdn.example"], ["cdn.example"], ["a.cdn.example", "xcdn.example", "example"]),
        (
            ["*.cdn.example"],
            ["a.cdn.example", "a.b.cdn.example"],
            ["cdn.example", "xcdn.example", "cdn.example.org"],
        ),
        (["*"], ["cdn.example", "93.184.216.34"], []),
        (["93.184.216.34"], ["93.184.216.34"], ["93.184.216.35"]),
        ([], [], ["cdn.example", "93.184.216.34"]),
        (["*cdn.example", "a.*"], [], ["xcdn.example", "cdn.example", "a.cdn.example", "a.b"]),
    ],
)
def test_hosts_are_allowed_by_name(names: list[str], allowed: list[str], refused: list[str]) -> None:
    """A name is itself, `*.name` every name below it, `*` all; nothing else in it is a pattern."""
    hosts = AllowedHosts(names)
    assert [host for host in allowed if host not in hosts] == []
    assert [host for host in refused if host in hosts] == []


@pytest.mark.parametrize("hosts", [[HOST], [HOST, "*.other.example"]])
async def test_a_host_must_be_allowed_at_every_redirect(authority: Authority, hosts: list[str]) -> None:
    """An order's own host and each that it redirects to is on the list, or nothing is asked of it."""
    async with running(authority, hosts=hosts) as world:
        world.host.answers["/album/me.jpg"] = reply(status=302, location="/b")
        world.host.answers["/b"] = reply(status=302, location=f"https://{OTHER_HOST}/c")
        world.host.answers["/c"] = reply(JPEG)
        failure = await world.failure()
        assert (type(failure), failure.code) == (BadInput, "photo_host_not_allowed")
        assert failure.message.startswith(f"{HOST}/b: redirect refused: {OTHER_HOST}/c: ")
        assert failure.for_customers.endswith(f"photos from {OTHER_HOST} are not allowed")
        failure = await world.failure(f"https://{OTHER_HOST}/c")
        assert (failure.code, world.names.asked) == ("photo_host_not_allowed", [HOST])
    async with running(authority, hosts=[HOST, OTHER_HOST]) as world:
        world.host.answers["/album/me.jpg"] = reply(status=302, location=f"https://{OTHER_HOST}/c")
        world.host.answers["/c"] = reply(JPEG)
        assert (await world.fetch()).data == JPEG


async def test_a_chain_of_redirects_ends(world: World) -> None:
    """Hosts that send each other's way are followed a few times."""
    world.host.answers["/album/me.jpg"] = reply(status=302, location=f"https://{OTHER_HOST}/album/me.jpg")
    assert "redirected more than 3 times" in (await world.failure()).message
    assert len(world.host.requests) == 4


async def test_a_redirect_to_an_address_without_end_is_refused(world: World) -> None:
    """An address longer than any that may be ordered is not even taken apart."""
    world.host.answers["/album/me.jpg"] = reply(status=302, location="/" + "../" * 4000)
    assert (await world.failure()).code == "bad_url"
