"""The process that decodes photos: it may be killed at any time, and has no secrets.

Reads requests from stdin and answers on stdout, one after the other: a line of JSON, then the bytes whose
number it states. For each photo: request → `{"memory": …}` → an empty line to go on → the prepared photo;
instead of an answer, a refusal or a failure. It ends when its stdin is closed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from worker.photos.decode import Limits, Prepared, Source, Unusable

NICENESS = 5
_MEMORY_RESERVE = 128 * 1024 * 1024
"""Address space beyond what the largest photo needs: stacks, and libraries that are loaded late."""


def main() -> None:
    """Answer requests until stdin is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group or service; the worker decides
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)  # the worker's event loop goes first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may be written between the answers
    while line := requests.readline():
        request = json.loads(line)
        _answer(request, requests.read(request["size"]), requests, answers)


def _answer(request: dict[str, Any], data: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    _limit(request["cpu_seconds"], request["max_memory"])
    try:
        limits = Limits(request["max_edge"], request["max_bytes"])
        source = Source(request["kind"], data, limits, request["max_memory"])
        del data
        _send(answers, {"memory": source.memory})
        if not requests.readline():
            return
        _send_prepared(answers, source.prepare())
    except Unusable as exc:
        _send(answers, {"refused": [exc.code, exc.reason]})
    except Exception:  # noqa: BLE001 - the worker logs it: a fault of this program, or of its limits
        _send(answers, {"failed": traceback.format_exc(limit=-3)})


def _send_prepared(answers: BinaryIO, made: Prepared) -> None:
    facts = {"mime_type": made.mime_type, "width": made.width, "height": made.height}
    _send(answers, {"size": len(made.data), **facts}, made.data)


def _send(answers: BinaryIO, answer: dict[str, Any], data: bytes = b"") -> None:
    answers.write(json.dumps(answer).encode() + b"\n" + data)
    answers.flush()


def _limit(cpu_seconds: int, max_memory: int) -> None:
    """Limit processor time and memory of the next photo. macOS does not limit memory."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + max_memory + _MEMORY_RESERVE
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
