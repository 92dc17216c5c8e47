"""The Gemini simulator: a server on loopback with the Gemini API.

`python -m local.simulator.gemini` starts one and prints its URL as one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from starlette.applications import Starlette

from local.simulator.behaviour import Stage
from local.simulator.client import OpenProtocol
from local.simulator.control import Control
from local.simulator.faults import Answer, Rule
from local.simulator.ledger import Ledger
from local.simulator.photos import Received
from local.simulator.service import Service
from local.stack.processes import Startable


class Simulator(Startable):
    """A Gemini API on 127.0.0.1, run by a thread with its own event loop; a context manager.

    Settings are those of `configure`, and `reset` returns to them; `clock` (seconds) times everything.
    """

    def __init__(self, port: int = 0, clock: Callable[[], float] = time.monotonic, **settings: Any) -> None:
        self._port = port
        self._stage = Stage(settings)
        self._clock = clock
        self.ledger = Ledger()
        self.received = Received()
        self.url = ""

    def start(self) -> None:
        """Listen and serve; `url` is set when it returns. Raises OSError if the port is taken."""
        # Named as TCP, or asyncio leaves Nagle's algorithm on and every small answer takes 40 ms longer.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(1024)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        running = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(listener, running), name="gemini", daemon=True
        )
        self._thread.start()
        running.wait()

    def stop(self) -> None:
        """Cut every connection and end the server; returns when its thread has ended."""
        self._loop.call_soon_threadsafe(self._cut)
        self._thread.join()
        self._pool.shutdown()

    def _run(self, listener: socket.socket, running: threading.Event) -> None:
        asyncio.run(self._serve(listener, running))

    async def _serve(self, listener: socket.socket, running: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(2, "picture")
        self._service = Service(self._stage, self.ledger, self.received, self._pool, self._clock)
        control = Control(self._stage, self.ledger, self._service.release)
        self._server = uvicorn.Server(
            uvicorn.Config(
                Starlette(routes=[*control.routes(), *self._service.routes()]),
                http=OpenProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                timeout_keep_alive=300,
                timeout_graceful_shutdown=2,
            )
        )
        running.set()
        await self._server.serve(sockets=[listener])

    def _cut(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        for connection in list(self._server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    def configure(self, **settings: Any) -> None:
        """Change settings of `Behaviour`, or all rules by `rules=[…]`. Raises ValueError or TypeError."""
        self._stage.configure(settings)

    def add_rule(
        self,
        answer: Answer | Mapping[str, Any],
        *,
        prompt: str | None = None,
        model: str | None = None,
        times: int | None = 1,
    ) -> None:
        """Answer the next `times` matching calls (None: all) this way, after the existing rules."""
        self._stage.add_rule(Rule(Answer.parse(answer), prompt, model, times))

    def release(self) -> None:
        """Release every call in the ledger that an answer with `hold` holds back."""
        self._loop.call_soon_threadsafe(self._service.release)

    def reset(self, keep_behaviour: bool = False) -> None:
        """Empty the ledger and the quotas' counts; by default, go back to the first settings."""
        self._stage.reset(keep_behaviour)
        self.ledger.reset()

    def paid(self) -> int:
        """Images made, and so billed."""
        return self.ledger.paid()


def main(arguments: list[str] | None = None) -> None:
    """Run one simulator until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m local.simulator.gemini")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON as for /_sim/configure")
    options = parser.parse_args(arguments)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Simulator(options.port, **options.settings) as simulator:
        print(json.dumps({"url": simulator.url}), flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
