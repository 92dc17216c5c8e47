"""A function of main.py, served by functions-framework on a port of loopback."""

import contextlib
import os
import signal
import sys
import urllib.error
from collections.abc import Mapping
from pathlib import Path

from local.stack.errors import StackError
from local.stack.folder import Folder
from local.stack.processes import Process, Startable
from local.stack.supabase import DIRECT

ROOT = Path(__file__).resolve().parent.parent.parent


class Function(Startable):
    """One target; a context manager. The address stays the same when it is started again."""

    def __init__(self, target: str, folder: Folder, environment: Mapping[str, str]) -> None:
        self.target = target
        self._folder, self._environment = folder, environment
        self._port = 0
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process id of its server; 0 while there is none."""
        return self._process.pid if self._process else 0

    @property
    def is_running(self) -> bool:
        """Whether its server is running."""
        return bool(self._process and self._process.is_running)

    @property
    def log(self) -> str:
        """The last lines it has logged."""
        return self._process.tail() if self._process else ""

    def start(self) -> None:
        """Starts it and waits until it answers; `StackError` with its log if it does not."""
        program = Path(sys.executable).with_name("functions-framework")
        if not program.exists():
            raise StackError(f"{program} is not installed.", "Run `make install`.")
        self._port = self._port or self._folder.port(f"{self.target}_port")
        command = [str(program), "--target", self.target, "--source", str(ROOT / "main.py")]
        command += ["--port", str(self._port), "--host", "127.0.0.1"]
        self._process = Process(
            self.target, command, self._folder, last_signal=signal.SIGTERM, env=self._environment
        )
        self._process.wait_until(self._answers, "The log says why.")

    def stop(self) -> None:
        """Lets pending requests end, then stops the server; does nothing if it is not running."""
        if self._process:
            self._process.stop(signal.SIGTERM, seconds=10)
            self.kill_workers()
            self._process = None

    def kill_workers(self) -> None:
        """Kills gunicorn's worker, which survives a killed server and keeps the port."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _answers(self) -> bool:
        try:
            with DIRECT.open(f"{self.url}/healthz", timeout=2):
                return True
        except urllib.error.HTTPError:  # of generate_images, which has no such path
            return True
        except OSError:
            return False
