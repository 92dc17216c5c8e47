"""Connections without a complete request are closed, and so are those whose response is not read."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress

import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.support.raw_http import Line
from tests.support.served import Target, check_refusal
from worker.http import connection
from worker.http.connection import HEAD_SECONDS, BoundedConnection

REFUSED = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
BEGINNINGS = {"idle": b"", "dripping": b"POST / HTTP/1.1\r\nX: ", "answered": HEALTH, "refused": REFUSED}
SILENT = ("idle",)
PATIENCE_SECONDS = HEAD_SECONDS + 5
SHORT = 0.3


@pytest.mark.slow
def test_two_hundred_connections_without_a_head_are_closed(queue_target: Target) -> None:
    """Each is closed 10 s after it opened, or after its last response; other callers are served."""
    with ExitStack() as stack:
        opened = time.monotonic()
        waiting: list[tuple[str, Line]] = []
        for number in range(200):
            kind = list(BEGINNINGS)[number % len(BEGINNINGS)]
            line = stack.enter_context(Line(queue_target.url))
            line.send(BEGINNINGS[kind])
            waiting.append((kind, line))
        ended: list[tuple[str, float]] = []
        slowest = 0.0
        while waiting and time.monotonic() - opened < PATIENCE_SECONDS:
            time.sleep(0.5)
            gone = [(kind, line) for kind, line in waiting if line.is_closed()]
            ended += [(kind, time.monotonic() - opened) for kind, _ in gone]
            waiting = [each for each in waiting if each not in gone]
            for kind, line in waiting:
                line.send(b"" if kind in SILENT else b"x")
            asked = time.monotonic()
            check_refusal(queue_target.post(b"["), 400)
            slowest = max(slowest, time.monotonic() - asked)
        assert not waiting
        assert min(seconds for _, seconds in ended) >= HEAD_SECONDS - 0.5, ended
        assert slowest < 5


class Pages:
    """Answers `/{bytes}/{seconds}` after that many seconds, and `/{bytes}/held` once `released` is set."""

    def __init__(self) -> None:
        self.held = asyncio.Semaphore(0)
        self.released = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        size, seconds = scope["path"].strip("/").split("/")
        if seconds == "held":
            self.held.release()
            await self.released.wait()
        else:
            await asyncio.sleep(float(seconds))
        await Response(b"x" * int(size))(scope, receive, send)


@asynccontextmanager
async def serving(
    monkeypatch: pytest.MonkeyPatch, seconds: float = SHORT, pages: Pages | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a uvicorn server that allows two connections and closes idle ones after `seconds`."""
    application = pages or Pages()
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 2)
    for bound in ("HEAD_SECONDS", "READ_SECONDS", "TURNED_AWAY_SECONDS"):
        monkeypatch.setattr(connection, bound, seconds)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(application, http=BoundedConnection, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve([listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        try:
            yield reader, writer
        finally:
            application.released.set()
            writer.close()
            server.should_exit = True
            await task


def get(path: str) -> bytes:
    """An HTTP request for the path."""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.mark.slow
async def test_a_caller_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that is not read does not hold the connection, whether one large or many small ones."""
    for asked in (get("/20000000/0"), get("/50000/0") * 400):
        async with serving(monkeypatch) as (reader, writer):
            writer.write(asked)
            await asyncio.sleep(4 * SHORT)
            with pytest.raises(ConnectionResetError):
                while await reader.read(2**20):
                    await asyncio.sleep(0)
                raise ConnectionResetError  # the server may also close without a reset
            assert reader.at_eof() or reader.exception()


async def test_connections_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They get 503, or are closed if there are far too many; connections in use are served."""
    pages = Pages()
    async with serving(monkeypatch, 60, pages) as (reader, writer), AsyncExitStack() as opened:

        async def connect(request: bytes) -> asyncio.StreamReader:
            more, its_writer = await asyncio.open_connection(*writer.get_extra_info("peername"))
            opened.callback(its_writer.close)
            its_writer.write(request)
            return more

        writer.write(get("/10/held"))
        in_use = await connect(get("/10/held"))
        for _ in range(2):
            await pages.held.acquire()
        beyond = [await (await connect(get("/10/0"))).read() for _ in range(2)]
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in beyond)
        assert json.loads(beyond[0].partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
        with suppress(ConnectionResetError):
            assert await (await connect(get("/10/0"))).read() == b""
        pages.released.set()
        for each in (reader, in_use):
            assert b" 200 " in await each.readuntil(b"\r\n\r\n")


async def gives_way_to_a_request(waiting: asyncio.StreamReader, address: tuple[str, int]) -> None:
    """Check that a request on an additional connection is answered, and the waiting connection is closed."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(get("/10/0"))
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    with suppress(ConnectionResetError):
        assert await waiting.read() == b""
    writer.close()


async def test_idle_connections_give_way_to_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that opens all connections locks nobody out: the one that was idle longest is closed."""
    async with serving(monkeypatch, seconds=60) as (oldest, writer):
        address = writer.get_extra_info("peername")
        _, second = await asyncio.open_connection(*address)
        await gives_way_to_a_request(oldest, address)
        second.close()


async def test_slow_bodies_give_way_to_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that begins many requests and never sends their bodies locks nobody out either."""
    begun = b"POST /10/held HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    pages = Pages()
    async with serving(monkeypatch, 60, pages) as (oldest, writer):
        address = writer.get_extra_info("peername")
        writer.write(begun)
        _, second = await asyncio.open_connection(*address)
        second.write(begun)
        for _ in range(2):
            await pages.held.acquire()
        await gives_way_to_a_request(oldest, address)
        second.close()


async def test_a_caller_that_still_reads_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection is closed rather than an older one whose response is still being read."""
    async with serving(monkeypatch, seconds=60) as (reader, writer):
        writer.write(get("/20000000/0"))
        await reader.readuntil(b"\r\n\r\n")
        address = writer.get_extra_info("peername")
        idle, second = await asyncio.open_connection(*address)
        answer, third = await asyncio.open_connection(*address)
        third.write(get("/10/0"))
        assert b" 200 " in await answer.readuntil(b"\r\n\r\n")
        with suppress(ConnectionResetError):
            assert await idle.read() == b""
        assert len(await reader.readexactly(20_000_000)) == 20_000_000
        for each in (second, third):
            each.close()


async def test_a_timer_that_has_called_no_longer_runs() -> None:
    timer, called = connection._Timer(asyncio.get_running_loop()), asyncio.Event()
    timer.start(0, called.set)
    assert timer.runs
    await called.wait()
    assert not timer.runs


async def test_long_requests_and_reused_connections_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request may take any time, and each response restarts the idle time."""
    idle = 0.5
    async with serving(monkeypatch, idle) as (reader, writer):
        for path in (f"/10/{2 * idle}", *["/10/0"] * 3, f"/10/{1.5 * idle}"):
            writer.write(get(path))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head
            assert await reader.readexactly(10) == b"x" * 10
            await asyncio.sleep(idle / 2)
        await asyncio.sleep(idle)
        assert await reader.read() == b""
