"""Notifies running requests of SIGTERM immediately and passes the signal on to the server.

gunicorn's uvicorn worker and plain uvicorn install their handlers before the first request. At the first
request our handler replaces theirs and calls them.
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
    """On the first SIGTERM or SIGINT, call `stop` in the running event loop, then the previous handler.

    The first signal restores the previous handlers, so that a second one goes to the server alone. If the
    previous handler is the default one, the first signal only calls `stop`, and a second one ends the
    process. Returns False and changes nothing outside the main thread, where Python delivers no signals.
    Raises RuntimeError without a running loop.
    """
    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        return False
    found = {number: signal.getsignal(number) for number in SIGNALS}
    # None is a handler that Python cannot restore; a signal set to SIG_IGN stays ignored.
    before = {number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)}

    def handle(number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            if signal.getsignal(each) is handle:
                signal.signal(each, handler)
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no run is left to stop
            loop.call_soon_threadsafe(stop)
        previous = before[signal.Signals(number)]
        if callable(previous):
            previous(number, frame)

    for number in before:
        signal.signal(number, handle)
    return True
