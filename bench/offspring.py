"""One worker process, forked by the nursery; and the nursery itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
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
    """A process by its id; it is buried as soon as it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to it and all it may have started; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:  # so young that it has no session of its own yet
                os.kill(self.pid, number)

    def wait(self) -> None:
        """Waits until it has ended, and kills it if it does not in time."""
        deadline = time.monotonic() + STOP_SECONDS
        while self.is_running and time.monotonic() < deadline:
            time.sleep(0.05)
        self.send(signal.SIGKILL)


class Nursery:
    """Forks workers; a context manager, whose end is theirs."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.nursery"],
            cwd=ROOT,
            env={**kept(), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def fork(self, log: Path, environment: Mapping[str, str]) -> Offspring:
        """A new worker that logs there and has this environment, and no other."""
        order = json.dumps({"log": str(log), "env": dict(environment)})
        if not self._process.stdin or not self._process.stdout:
            raise StackError("The nursery has no pipes.", "")
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise StackError("The nursery has ended.", "Its stderr says why.")
        return Offspring(int(answer))
