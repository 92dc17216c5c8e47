"""The wire between workers and stack: knows which requests are pending, and can strike in the middle of one.

Each worker has its own address here. The stack completes every forwarded request, as it does when a client
dies; a request can also be held back and delivered long after its sender's death.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

from bench.storm.customers import POISON
from bench.storm.messages import path_of, phase_of, read_message

Moment = Literal["before", "during", "after", "late", "stalled"]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SPARED_SECONDS = 10.0
"""By then a run of these workers has ended."""

SECOND_CRASH = re.compile(rb'"crashes": ?[2-9]')


@dataclass(frozen=True, slots=True)
class Aim:
    """Strike at the worker's next request of this phase.

    before: it is not forwarded; during: this many seconds after it was forwarded; after: its answer is lost;
    late: it is forwarded this many seconds after the death; stalled: nobody dies, but the answer is held back
    for this many seconds, and then lost.
    """

    phase: str
    moment: Moment
    seconds: float = 0.0


class Wire:
    """One address for each seat, all forwarded to `target`; a context manager with a thread.

    `strike(worker, phase, moment)` is called in that thread, at that moment.
    """

    def __init__(self, target: str, seats: int, strike: Callable[[str, str, str], None]) -> None:
        self._target, self._strike = urlsplit(target), strike
        self._workers = [""] * seats
        self._aims: list[Aim | None] = [None] * seats
        self._open: list[tuple[str, str]] = []
        self._seen: set[str] = set()
        self._held_back = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._spared_until: dict[str, float] = {}
        self.delivered_late: list[str] = []
        self.urls: list[str] = []

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="wire", daemon=True
        )
        self._thread.start()
        ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def seat(self, seat: int, worker: str) -> None:
        """Assign the seat's address to this worker; an aim at the previous one is dropped."""
        with self._lock:
            self._workers[seat], self._aims[seat] = worker, None

    def aim(self, seat: int, aim: Aim | None) -> None:
        """Strike once at the seat's worker; None cancels the aim."""
        with self._lock:
            self._aims[seat] = aim

    def is_aimed_at(self, seat: int) -> bool:
        """Whether an aim is still pending."""
        return self._aims[seat] is not None

    def spares(self, worker: str) -> bool:
        """Whether the worker may have a healthy job that has crashed twice; a third crash would fail it."""
        return time.monotonic() < self._spared_until.get(worker, 0.0)

    def under_way(self, worker: str) -> list[str]:
        """The phases of a worker's unanswered requests, oldest first."""
        with self._lock:
            return [phase for sender, phase in self._open if sender == worker]

    def has_spoken(self, worker: str) -> bool:
        """Whether the worker has sent anything."""
        return worker in self._seen

    @property
    def is_quiet(self) -> bool:
        """Whether no request is pending or held back."""
        with self._lock:
            return not self._open and not self._held_back

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as running:
            for seat in range(len(self._workers)):
                serve = functools.partial(self._connected, seat)
                server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
                running.callback(server.close)
                self.urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            ready.set()
            await self._ended.wait()

    async def _connected(self, seat: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        worker = self._workers[seat]
        self._keep(asyncio.current_task())
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
            upstream = await self._connect()
            try:
                while await self._exchange(seat, worker, (reader, writer), upstream):
                    pass
            finally:
                upstream[1].transport.abort()
        writer.transport.abort()

    async def _exchange(self, seat: int, worker: str, client: Streams, upstream: Streams) -> bool:
        """Forward one request and its answer; False if the request was stopped."""
        request = await read_message(client[0])
        phase = phase_of(request)
        self._seen.add(worker)
        aim = self._hit(seat, worker, phase)
        entry = (worker, phase)
        if aim and aim.moment == "stalled":
            await asyncio.sleep(aim.seconds)
            return False
        if aim and aim.moment in ("before", "late"):
            self._strike(worker, phase, aim.moment)
            if aim.moment == "late":
                self._hold_back(request, aim)
            return False
        with self._lock:
            self._open.append(entry)
        try:
            upstream[1].write(request)
            if aim and aim.moment == "during":
                self._loop.call_later(aim.seconds, self._strike, worker, phase, aim.moment)
            answer = await read_message(upstream[0])
            if phase == "claiming":
                self._spare(worker, answer)
            if aim and aim.moment == "after" and not self.spares(worker):
                self._strike(worker, phase, aim.moment)
        finally:
            with self._lock:
                self._open.remove(entry)
        client[1].write(answer)
        await client[1].drain()
        return True

    def _hit(self, seat: int, worker: str, phase: str) -> Aim | None:
        with self._lock:
            aim = self._aims[seat]
            if aim is None or aim.phase != phase or self._workers[seat] != worker or self.spares(worker):
                return None
            self._aims[seat] = None
            return aim

    def _spare(self, worker: str, answer: bytes) -> None:
        """Protect, for one run, a worker that got a healthy job with two crashes."""
        if SECOND_CRASH.search(answer) and POISON.encode() not in answer:
            self._spared_until[worker] = time.monotonic() + SPARED_SECONDS

    def _hold_back(self, request: bytes, aim: Aim) -> None:
        with self._lock:
            self._held_back += 1
        self._keep(asyncio.ensure_future(self._deliver(request, aim)))

    async def _deliver(self, request: bytes, aim: Aim) -> None:
        await asyncio.sleep(aim.seconds)
        with contextlib.suppress(OSError, EOFError):
            upstream = await self._connect()
            upstream[1].write(request)
            await read_message(upstream[0])
            upstream[1].transport.abort()
            self.delivered_late.append(path_of(request))
        with self._lock:
            self._held_back -= 1

    def _keep(self, task: asyncio.Task[None] | None) -> None:
        """References to tasks: the loop keeps only weak ones, so a task could be collected while it works."""
        if task:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> Streams:
        return await asyncio.open_connection(self._target.hostname, self._target.port, limit=1 << 20)
