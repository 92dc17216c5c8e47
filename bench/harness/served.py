"""A function served by functions-framework, for parts that measure its processes."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local.stack.errors import StackError
from local.stack.folder import free_port
from tests.support.clone import descendants

SECRET = "a-secret-of-the-bench-0123456789"


@dataclass(frozen=True, slots=True)
class Served:
    """Its port and its first process, which forks others."""

    port: int
    pid: int

    @property
    def pids(self) -> tuple[int, ...]:
        """All its processes."""
        return (self.pid, *descendants(self.pid))

    def ask(self) -> bytes:
        """Call for a run until there is an answer; `StackError` if it is not a summary."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
            try:
                connection.request("POST", "/", headers={"X-Worker-Secret": SECRET, "Content-Length": "0"})
                answer = connection.getresponse()
                said = answer.read()
            except OSError:
                time.sleep(0.005)
                continue
            finally:
                connection.close()
            if answer.status != 200:
                raise StackError(f"It answered {answer.status}.", "Its answer says why.", repr(said[:200]))
            return said
        raise StackError("It did not answer within a minute.", "Serve it by hand to see why.")


@contextmanager
def served(target: str, source: Path, environment: Mapping[str, str]) -> Iterator[Served]:
    """Start it on a free loopback port, with its output on stderr; finally kill all its processes."""
    port = free_port()
    program = Path(sys.executable).with_name("functions-framework")
    command = [str(program), "--target", target, "--source", str(source)]
    command += ["--port", str(port), "--host", "127.0.0.1"]
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
    try:
        yield Served(port, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
