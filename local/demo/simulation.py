"""The Gemini simulator in its own process, so that its drawing does not slow down the demo."""

import json
import signal
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from local.demo.environment import kept
from local.demo.pace import Pace
from local.simulator.ledger import Call
from local.stack.folder import Folder
from local.stack.processes import Process
from local.stack.supabase import DIRECT

ROOT = Path(__file__).resolve().parent.parent.parent


class Simulation:
    """A running simulator; a context manager. `settings` are those of `/_sim/configure`."""

    def __init__(self, folder: Folder, settings: Mapping[str, Any]) -> None:
        self._folder, self._settings = folder, settings
        self._process: Process | None = None
        self.url = ""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "local.simulator.gemini", "--settings", json.dumps(self._settings)]
        environment = {**kept(), "PYTHONPATH": str(ROOT)}
        self._process = Process(
            "simulator", command, self._folder, last_signal=signal.SIGKILL, env=environment
        )
        self._process.wait_until(self._told_its_url, "The log says why.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            self._process.stop(signal.SIGTERM)

    @property
    def pid(self) -> int:
        """Its process id; 0 while it is stopped."""
        return self._process.pid if self._process else 0

    def reset(self) -> None:
        """Empties ledger and quotas, and goes back to the first settings and rules."""
        self._ask("/_sim/reset", {})

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Changes settings from now on; `reset` undoes it."""
        self._ask("/_sim/configure", settings)

    def ledger(self, after: int = 0) -> list[Call]:
        """Every call since the start or the last reset, or those that came after call number `after`."""
        calls: list[dict[str, Any]] = self._ask(f"/_sim/ledger?after={after}")["calls"]
        return [Call(**{**call, "image_shas": tuple(call["image_shas"])}) for call in calls]

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with DIRECT.open(urllib.request.Request(self.url + path, data), timeout=10) as answer:
            read: dict[str, Any] = json.load(answer)
            return read

    def _told_its_url(self) -> bool:
        lines = self._process.tail().splitlines() if self._process else []
        told = [line for line in lines if line.startswith('{"url"') and line.endswith("}")]
        if told:
            self.url = json.loads(told[-1])["url"]
        return bool(told)


def settings(pace: Pace, rules: list[dict[str, Any]]) -> dict[str, Any]:
    """A simulator with the pace's quota for every model, its latency, and the rules."""
    return {
        "latency": {"kind": "uniform", "low_seconds": pace.low_seconds, "high_seconds": pace.high_seconds},
        "quotas": {"*": {"requests_per_minute": pace.quota, "window_seconds": pace.window_seconds}},
        "rules": rules,
        "seed": 1,
    }
