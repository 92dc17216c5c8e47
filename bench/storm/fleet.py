"""Worker processes in numbered seats: started, killed with -9 and restarted, each time under a new name."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.storm.offspring import Nursery, Offspring
from bench.storm.wire import Wire
from local.demo.environment import kept, simulated_gemini
from local.simulator.ledger import fingerprint
from local.stack.folder import Folder

RUN_SECONDS = 10.0
"""The shortest possible."""

LEASE_SECONDS = RUN_SECONDS + 15
"""The longest lease."""

SETTINGS = {
    "INVOCATION_TIMEOUT_SECONDS": f"{RUN_SECONDS:g}",
    "MARGIN_SECONDS": "2",
    "CALL_TIMEOUT_SECONDS": "5",
    "JOBS_AT_A_TIME": "4",
    "IMAGES_AT_A_TIME": "4",
    "RETRY_BASE_SECONDS": "0.1",
    "RETRY_CAP_SECONDS": "1",
    "MAX_IDLE_SECONDS": "1",
    "LOG_FORMAT": "json",
}


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill -9, at a time of the machine's monotonic clock.

    `phase` is what the worker was doing, if the wire or the watcher knows, else empty; `moment` is how far
    the pending request was, or `random`.
    """

    worker: str
    at: float
    phase: str
    moment: str


def key_of(worker: str) -> str:
    """The fingerprint of a worker's Gemini key in the simulator's ledger."""
    return fingerprint(_key(worker))


def _key(worker: str) -> str:
    return f"key-of-{worker}"


class Fleet:
    """`seats` workers, each in its own process; a context manager that finally kills the remaining ones."""

    def __init__(self, folder: Folder, stack_url: str, secret: str, gemini_url: str, seats: int) -> None:
        self._folder = Folder(folder.path / "workers")
        self._folder.path.mkdir()
        self._secret, self._gemini_url = secret, gemini_url
        self._names = [""] * seats
        self._processes: list[Offspring | None] = [None] * seats
        self._nursery = Nursery()
        self._count = 0
        self._lock = threading.Lock()
        self.wire = Wire(stack_url, seats, self.kill)
        self.kills: list[Kill] = []
        self.workers: list[str] = []

    def __enter__(self) -> Self:
        self.wire.__enter__()
        self._nursery.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nursery.__exit__(None, None, None)
        self.wire.__exit__(None, None, None)

    @property
    def seats(self) -> range:
        """The numbers of the seats."""
        return range(len(self._names))

    def worker(self, seat: int) -> str:
        """The worker in this seat."""
        return self._names[seat]

    def fill(self) -> None:
        """Start a worker in every empty seat."""
        for seat in self.seats:
            with self._lock:
                process = self._processes[seat]
                is_running = process is not None and process.is_running
            if not is_running:
                self._start(seat)

    def kill(self, worker: str, phase: str = "", moment: str = "random") -> None:
        """Kill a worker, from any thread; does nothing if it is dead."""
        with self._lock:
            for name, process in zip(self._names, self._processes, strict=True):
                if name == worker and process and process.is_running and not self._is_dead(worker):
                    phase = phase or self._phase(worker)
                    process.send(signal.SIGKILL)
                    self.kills.append(Kill(worker, time.monotonic(), phase, moment))

    def end(self) -> None:
        """Ask every worker to end, and wait for all."""
        running = [process for process in self._processes if process]
        for process in running:
            process.send(signal.SIGTERM)
        for process in running:
            process.wait()

    def log(self, worker: str) -> Iterator[Mapping[str, Any]]:
        """The worker's log, without a last line that a kill cut short."""
        path = Path(self._folder.path / f"{worker}.log")
        if not path.exists():
            return
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("{") and line.endswith("}"):
                yield json.loads(line)

    def _is_dead(self, worker: str) -> bool:
        return any(kill.worker == worker for kill in self.kills[-len(self._names) :])

    def _phase(self, worker: str) -> str:
        """The phase of the worker's oldest pending request, or that it has sent none; empty if unknown."""
        under_way = self.wire.under_way(worker)
        if under_way:
            return under_way[0]
        return "" if self.wire.has_spoken(worker) else "starting"

    def _start(self, seat: int) -> None:
        self._count += 1
        worker = f"worker-{seat}-{self._count}"
        self.wire.seat(seat, worker)
        environment = {
            **kept(),
            "SUPABASE_URL": self.wire.urls[seat],
            "SUPABASE_SERVICE_ROLE_KEY": self._secret,
            **simulated_gemini(self._gemini_url),
            "GEMINI_API_KEY": _key(worker),
            "WORKER_ID": worker,
            **SETTINGS,
        }
        process = self._nursery.fork(self._folder.path / f"{worker}.log", environment)
        with self._lock:
            self._names[seat], self._processes[seat] = worker, process
            self.workers.append(worker)
