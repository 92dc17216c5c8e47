"""SIGTERM while a request is running: real servers, each in its own process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from worker.common import signals

ROOT = Path(__file__).resolve().parents[2]

# A request of 60 s that ends early once it is told to stop. `/started` answers when one is running.
TARGET = """
import asyncio
import functions_framework.aio
from worker.common import signals

stop, started, chained = asyncio.Event(), asyncio.Event(), []

@functions_framework.aio.http
async def target(request):
    if request.url.path == "/started":
        await started.wait()
        return {"started": True}
    chained.append(signals.chain(stop.set))
    started.set()
    try:
        async with asyncio.timeout(60):
            await stop.wait()
    except TimeoutError:
        return {"stopped": False}
    return {"stopped": True, "chained": chained[0]}
"""

SERVERS = {
    "functions-framework": [
        "-m",
        "functions_framework",
        "--target",
        "target",
        "--source",
        "target.py",
        "--port",
    ],
    "uvicorn": ["-m", "uvicorn", "functions_framework.aio:app", "--log-level", "error", "--port"],
}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server process with the target above, and its port."""
    (tmp_path / "target.py").write_text(TARGET)
    port = _free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "FUNCTION_TARGET": "target",
        "FUNCTION_SOURCE": "target.py",
    }
    command = [sys.executable, *SERVERS[request.param], str(port)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True) as process:
        try:
            _wait_until_listening(port, process)
            yield process, port
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


async def test_running_request_answers_soon_after_sigterm(
    server: tuple[subprocess.Popen[bytes], int],
) -> None:
    """A request of 60 s answers 200 at once after SIGTERM, and then the server ends."""
    process, port = server
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        running = asyncio.create_task(client.get("/"))
        await client.get("/started")
        sent_at = time.monotonic()
        process.terminate()
        answer = await running
        took_seconds = time.monotonic() - sent_at
    assert (answer.status_code, answer.json()) == (200, {"stopped": True, "chained": True})
    assert took_seconds < 20
    await asyncio.to_thread(process.wait, 60)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Put this process's own handlers back afterwards."""
    kept = {number: signal.getsignal(number) for number in signals.SIGNALS}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
async def test_previous_handler_is_called_every_time_and_stop_once() -> None:
    """The first signal stops the work and calls the server's handler; a second one only calls the handler."""
    calls: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: calls.append("server"))
    stopped = asyncio.Event()

    def stop() -> None:
        calls.append("stop")
        stopped.set()

    assert signals.chain(stop)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(stopped.wait(), 5)
    signal.raise_signal(signal.SIGTERM)
    assert calls == ["server", "stop", "server"]


@pytest.mark.usefixtures("handlers")
async def test_signal_without_a_handler_only_stops() -> None:
    """The first signal stops the work and restores the default action for a second one."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stopped = asyncio.Event()
    assert signals.chain(stopped.set)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(stopped.wait(), 5)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("handlers")
async def test_ignored_signal_stays_ignored() -> None:
    """nohup and a shell's background job set a signal to ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals.chain(lambda: None)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_change_nothing() -> None:
    """Outside the main thread, where Python has no signals, chaining does nothing and says so."""
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    answers: list[bool] = []

    async def chain() -> None:
        answers.append(signals.chain(lambda: None))

    thread = threading.Thread(target=lambda: asyncio.run(chain()))
    thread.start()
    thread.join()
    assert answers == [False]
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


@pytest.mark.usefixtures("handlers")
def test_signal_after_the_loop_has_ended_reaches_the_server() -> None:
    """The loop is closed, but the server's handler is still called."""
    calls: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: calls.append("server"))

    async def chain() -> None:
        signals.chain(lambda: calls.append("stop"))

    asyncio.run(chain())
    signal.raise_signal(signal.SIGTERM)
    assert calls == ["server"]
