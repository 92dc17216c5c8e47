"""One worker process, forked by the nursery; and the nursery itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from local.demo.environment import kept
from local.demo.simulation import ROOT
from local.stack.errors import StackError

STOP_SECONDS = 15.0


class Offspring:
    """A process by its id, which is not reused until `is_running` has returned False."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery, self.pid = nursery, pid
        self._has_ended = False

    @property
    def is_running(self) -> bool:
        """Whether it is still running."""
        self._has_ended = self._has_ended or not self._nursery.ask({"look": self.pid})
        return not self._has_ended

    def send(self, number: signal.Signals) -> None:
        """Send a signal; does nothing if it has ended."""
        if not self._has_ended:
            os.kill(self.pid, number)

    def wait(self) -> None:
        """Wait for its end, and kill it if that takes too long."""
        deadline = time.monotonic() + STOP_SECONDS
        while self.is_running and time.monotonic() < deadline:
            time.sleep(0.05)
        self.send(signal.SIGKILL)


class Nursery:
    """Forks workers; a context manager that ends with them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.storm.nursery"],
            cwd=ROOT,
            env={**kept(), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; it ends when its stdin closes
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def fork(self, log: Path, environment: Mapping[str, str]) -> Offspring:
        """Fork a worker with this log file and exactly this environment."""
        return Offspring(self, self.ask({"log": str(log), "env": dict(environment)}))

    def ask(self, order: Mapping[str, object]) -> int:
        """Send a command to the nursery; `StackError` if it has ended."""
        pipes = self._process
        if not pipes.stdin or not pipes.stdout:
            raise StackError("The nursery has no pipes.", "")
        with self._lock:
            pipes.stdin.write(json.dumps(order) + "\n")
            pipes.stdin.flush()
            answer = pipes.stdout.readline()
        if not answer:
            raise StackError("The nursery has ended.", "Its stderr says why.")
        return int(answer)
