"""Lets a running request learn of SIGTERM at once, without taking the signal away from the server.

gunicorn's uvicorn worker, and uvicorn alone, set their handlers before the first request, so ours is
laid over theirs then and calls theirs in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # Cloud Run and systemd; Ctrl-C


def chain(stop: Callable[[], None]) -> bool:
    """Have `stop` called in the running event loop when the process is told to end; then the handler before.

    Once only: the first signal puts the handlers back, so that a second one is the server's alone. A signal
    that had no handler only stops, and a second one ends the process as it always has. Returns False and
    changes nothing outside the main thread, where Python has no signals. Raises RuntimeError without a loop.
    """
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        return False
    found = {number: signal.getsignal(number) for number in SIGNALS}
    # None is a handler that Python cannot put back, SIG_IGN somebody's wish that the signal does nothing.
    before = {number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)}

    def handle(number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            if signal.getsignal(each) is handle:
                signal.signal(each, handler)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            loop.call_soon_threadsafe(stop)
        previous = before[signal.Signals(number)]
        if callable(previous):
            previous(number, frame)

    for number in before:
        signal.signal(number, handle)
    return True
