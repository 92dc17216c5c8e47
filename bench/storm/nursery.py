"""A process that has imported a worker's modules, and forks a worker for each command, a line of JSON.

The imports take a second of processor time, too much for a thousand restarts; nothing is opened before the
fork. The answer to {log, env} is the child's process id, to {look: id} whether it runs; the id of a dead
child is not reused before somebody looked. All children die with the nursery.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

LOADED = (
    "worker.cli.main",
    "worker.app",
    "worker.gemini.sdk",
    "worker.photos.image_info",
    "google.genai",
    "supabase",
)
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    """Serve until stdin closes; then kill all children."""
    for name in LOADED:
        importlib.import_module(name)
    children: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "look" in order:
            answer = int(_runs(order["look"], children))
        else:
            answer = _fork(order)
            children.add(answer)
        print(answer, flush=True)
    for child in children:
        os.kill(child, signal.SIGKILL)


def _runs(child: int, children: set[int]) -> bool:
    """Whether a child is still running; reaps it if not."""
    if child in children and os.waitpid(child, os.WNOHANG)[0]:
        children.discard(child)
    return child in children


def _fork(order: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    os._exit(_work(order["log"], order["env"]))


def _work(log: str, environment: dict[str, str]) -> int:
    """Do what `python -m worker run` does, in a new session and with this environment."""
    from worker.cli.main import main as worker

    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.clear()
    os.environ.update(environment)
    return worker(["--no-env-file", "run"])


if __name__ == "__main__":
    main()
