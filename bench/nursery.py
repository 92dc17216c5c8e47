"""A process that has loaded what a worker loads, and forks one for each line of JSON it reads: {log, env}.

Loading takes a second of a core, which a thousand restarts cannot have; nothing is opened before the fork. It
answers each line with the process id. Its children die with it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

LOADED = ("worker.cli", "worker.app", "worker.genai_client", "worker.image", "google.genai", "supabase")
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    """Serves until its stdin closes; then kills what it has forked."""
    for name in LOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the dead
    children: list[int] = []
    for line in sys.stdin:
        children.append(_fork(json.loads(line)))
        print(children[-1], flush=True)
    for child in children:
        _kill(child)


def _fork(order: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    os._exit(_work(order["log"], order["env"]))


def _work(log: str, environment: dict[str, str]) -> int:
    """Does what `python -m worker run` does, in a session of its own and with its own environment."""
    from worker.cli import main as worker

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.clear()
    os.environ.update(environment)
    return worker(["--no-env-file", "run"])


def _kill(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
