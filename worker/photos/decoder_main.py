"""The program of a process that decodes photos: it may be killed at any time, and has no secrets.

Reads requests from stdin and answers on stdout, one after the other: a line of JSON, then the bytes whose
number it states. The answer is the prepared photo in base64, a refusal, a failure, or that the photo needs
more memory than the request's `memory`. The process ends when its stdin is closed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from base64 import urlsafe_b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from worker.common.isolation import hide_memory, leave_network
from worker.photos.decode import Limits, Prepared, Source, Unusable

NICENESS = 5
_MEMORY_RESERVE = 128 * 1024 * 1024
"""Address space beyond what a photo needs: stacks, and libraries that are loaded late."""


def main() -> None:
    """Answer requests until stdin is closed."""
    leave_network()
    hide_memory()  # from the other decoder, which has another user's photo
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group or service; the worker decides
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # systemd's filter of system calls may forbid it
        os.nice(NICENESS)  # the worker's event loop goes first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may be written between the answers
    while line := requests.readline():
        request = json.loads(line)
        _answer(request, requests.read(request["size"]), answers)


def _answer(request: dict[str, Any], data: bytes, answers: BinaryIO) -> None:
    _limit_cpu(request["cpu_seconds"])
    began = _cpu_seconds()
    used = _address_space()
    try:
        _limit_memory(used, request["memory"])  # some formats reserve the pixels to read a header
        limits = Limits(request["max_edge"], request["max_bytes"])
        source = Source(request["kind"], data, limits, request["max_memory"])
        del data
        if source.memory > request["memory"]:
            _send(answers, {"larger": source.memory})
            return
        _limit_memory(used, source.memory)
        made = source.prepare()
        _send_prepared(answers, made, _cpu_seconds() - began)
    except Unusable as exc:
        _send(answers, {"refused": [exc.code, exc.reason]})
    except MemoryError:
        _send(answers, {"refused": ["photo_too_large", "needs too much memory to prepare: make it smaller"]})
    except Exception:  # noqa: BLE001 - the worker logs it: a fault of this program, or of its limits
        _send(answers, {"failed": traceback.format_exc(limit=-3)})


def _send_prepared(answers: BinaryIO, made: Prepared, cpu_seconds: float) -> None:
    facts = {"mime_type": made.mime_type, "width": made.width, "height": made.height}
    encoded = urlsafe_b64encode(made.data)
    _send(answers, {"size": len(encoded), "cpu_seconds": cpu_seconds, **facts}, encoded)


def _send(answers: BinaryIO, answer: dict[str, Any], data: bytes = b"") -> None:
    answers.write(json.dumps(answer).encode() + b"\n" + data)
    answers.flush()


def _limit_cpu(seconds: int) -> None:
    """Limit the processor time of the next photo."""
    most = int(_cpu_seconds()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def _cpu_seconds() -> float:
    """Processor time that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _address_space() -> int:
    """Bytes of address space in use; 0 where it is not known, as on macOS, which does not limit it either."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 0


def _limit_memory(used: int, more: int) -> None:
    """Limit the address space to `more` bytes beyond `used`: a photo takes no more than was granted."""
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + more + _MEMORY_RESERVE, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
