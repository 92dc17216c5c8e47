"""The data folder of one stack at a time: its lock, and the values remembered between starts."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from local.stack.errors import StackError


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether the port on loopback can be listened on now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def open_private(path: str | Path, flags: int) -> int:
    """Opens or creates a file that only its owner may read."""
    file = os.open(path, flags | os.O_CREAT, 0o600)
    os.fchmod(file, 0o600)
    return file


def write_private(path: Path, text: str) -> None:
    """Writes a file with keys or passwords."""
    with open(path, "w", opener=open_private) as file:
        file.write(text)


def _try(lock: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


class Folder:
    """A stack's folder, used by one stack at a time.

    It has two locks, which the kernel releases however a process ends: `owner` is held by the process that
    started the stack; `lock` is inherited by all its processes, and so is free once the last one has ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._owner: int | None = None
        self._lock: int | None = None

    def acquire(self, seconds: float = 20.0) -> None:
        """Takes the folder once the rest of a killed stack is gone; `StackError` if another runs in it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)  # keys, passwords and logs are below
            self._take_owner()
            self._lock = open_private(self.path / "lock", os.O_RDWR)
        except OSError as error:
            raise StackError(
                f"Cannot use {self.path}: {error.strerror}.", "Choose another folder."
            ) from error
        deadline = time.monotonic() + seconds
        while not _try(self._lock):
            if time.monotonic() > deadline:
                self.release()
                raise StackError(
                    f"A killed stack in {self.path} has left processes behind.", "End them first."
                )
            time.sleep(0.02)

    def _take_owner(self) -> None:
        owner = open_private(self.path / "owner", os.O_RDWR)
        if not _try(owner):
            pid = os.pread(owner, 20, 0).decode().strip()
            os.close(owner)
            raise StackError(f"Another stack is running in {self.path} (process {pid}).", "Stop it first.")
        os.ftruncate(owner, 0)
        os.pwrite(owner, str(os.getpid()).encode(), 0)
        self._owner = owner

    def release(self) -> None:
        """Releases the folder; does nothing if it is not held."""
        for lock in (self._lock, self._owner):
            if lock is not None:
                os.close(lock)
        self._lock = self._owner = None

    @property
    def lock_fds(self) -> tuple[int, ...]:
        """The file descriptors that a process inherits, so that the folder is locked while it lives."""
        return () if self._lock is None else (self._lock,)

    def remember(self, name: str, make: Callable[[], str]) -> str:
        """The value stored under the name since the first start; created now if there is none."""
        kept = self._kept()
        if name not in kept:
            self._keep({**kept, name: make()})
        return self._kept()[name]

    def port(self, name: str) -> int:
        """The port used under the name last time, so that addresses stay; another if it is taken."""
        kept = self._kept()
        if name not in kept or not port_is_free(int(kept[name])):
            self._keep({**kept, name: str(free_port())})
        return int(self._kept()[name])

    def _kept(self) -> dict[str, str]:
        try:
            kept: dict[str, str] = json.loads((self.path / "kept.json").read_text())
        except FileNotFoundError:
            return {}
        return kept

    def _keep(self, kept: dict[str, str]) -> None:
        new = self.path / "kept.json.new"
        write_private(new, json.dumps(kept, indent=2))
        new.replace(self.path / "kept.json")
