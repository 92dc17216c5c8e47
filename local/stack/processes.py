"""One child process of the stack: started, waited for, stopped, never outliving its owner."""

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from local.stack.errors import StackError
from local.stack.folder import Folder, open_private

LAUNCHER = Path(__file__).with_name("launcher.py")
KERNEL_TELLS = sys.platform == "linux"
GUARD = 'read -r _ || kill -s "$0" "$1"'  # the pipe closes without a line when the owner has been killed
TAIL_LINES = 15


class Startable(ABC):
    """Something that is started and stopped; as a context manager, for the block."""

    @abstractmethod
    def start(self) -> None:
        """Start it; returns when it can be used."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it; nothing happens if it is not running."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Process:
    """A program run below `folder`, with its output appended to `{name}.log` there.

    When its owner ends in any way, it gets `last_signal`: on Linux from the kernel, as soon as the *thread*
    that started it ends; elsewhere from a shell that waits on a pipe, unless that is killed too.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        folder: Folder,
        *,
        last_signal: signal.Signals,
        user: str = "",
        env: Mapping[str, str] | None = None,
        kernel_tells: bool = KERNEL_TELLS,
    ) -> None:
        self.name, self.log = name, folder.path / f"{name}.log"
        self._last_signal = last_signal
        with open(self.log, "ab", opener=open_private) as log:
            self._log_start = log.tell()
            self._child = subprocess.Popen(
                launched(command, folder.path, user, last_signal if kernel_tells else None),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,  # the terminal's Ctrl-C is ours to pass on, in order
                pass_fds=folder.lock_fds,
            )
        self._guard = None if kernel_tells else self._start_guard()

    def _start_guard(self) -> subprocess.Popen[bytes]:
        arguments = [self._last_signal.name.removeprefix("SIG"), str(self._child.pid)]
        return subprocess.Popen(
            ["/bin/sh", "-c", GUARD, *arguments], stdin=subprocess.PIPE, start_new_session=True
        )

    @property
    def pid(self) -> int:
        """The process id, which stays the same while the launcher becomes the program."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._child.poll() is None

    def tail(self) -> str:
        """The last lines this run has logged."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-TAIL_LINES:])

    def wait_until(self, is_ready: Callable[[], bool], fix: str, seconds: float = 60.0) -> None:
        """Waits until it is ready; `StackError` with the end of its log if it ends or takes too long."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            if not self.is_running:
                raise StackError(
                    f"{self.name} ended with {self._child.returncode} ({self.log}):", fix, self.tail()
                )
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.name} is not ready after {seconds:.0f} s ({self.log}):", fix, self.tail()
                )
            time.sleep(0.02)

    def stop(self, first: signal.Signals, seconds: float = 15.0) -> None:
        """Asks it to end, and kills it if it does not in time."""
        if self.is_running:
            self._child.send_signal(first)
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._guard:
            self._guard.communicate(b"\n")


def launched(command: list[str], folder: Path, user: str, last_signal: signal.Signals | None) -> list[str]:
    """The command behind the launcher: in `folder`, as `user` unless empty, tied to us by the signal."""
    owner = str(os.getpid())
    number = str(int(last_signal or 0))
    return [sys.executable, "-I", "-S", str(LAUNCHER), owner, number, user, str(folder), *command]
