"""The kick end to end on the local stack: an order reaches the served function, and no clock is needed.

Real: the database, the API, the function, the files of sql/schedule. Stood in for: pg_net, Vault, Gemini.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.stack import Stack
from tests.support.clocked import Clocked, clocked
from tests.support.clone import wait_for
from tests.support.queue_sql import Connection
from tests.support.runs import process_environment
from tests.support.schedule_sql import SECRET, forget_kicks, paste


@pytest.fixture
def site(stack: Stack, simulator: Simulator, db: Connection) -> Iterator[Clocked]:
    """The stack with function and kick, but without any clock."""
    with clocked(stack, simulator, db) as made:
        paste(db, "kick.sql")
        yield made


def test_an_order_is_worked_off_without_a_clock(site: Clocked) -> None:
    """The first order through the API calls the function, which makes its photo and answers 200."""
    job = site.order("first")
    wait_for(lambda: site.is_completed(job))
    wait_for(site.is_quiet)
    (call,) = site.calls()
    assert call == "kick /: 200, queue_empty, completed 1"
    assert site.verdict("worker") == "Answering."
    assert SECRET not in str(paste(site.db, "watch.sql"))


def test_a_run_under_way_takes_what_comes(site: Clocked) -> None:
    """An order during a run starts no other run, and the active run makes its photo."""
    site.gemini.add_rule({"kind": "image", "hold": True}, prompt="[first]")
    first = site.order("first")
    assert site.gemini.ledger.wait(lambda ledger: ledger.outcomes().get("open") == 1)
    forget_kicks(site.db)
    second = site.order("second")
    site.gemini.release()
    wait_for(lambda: site.is_completed(first) and site.is_completed(second))
    wait_for(site.is_quiet)
    (call,) = site.calls()
    assert "completed 2" in call


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port of loopback where each request is read and the connection closed without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_each() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    request = b""
                    # Closed before the request is read whole, the connection would be reset.
                    while not request.endswith(b"{}") and (part := connection.recv(65536)):
                        request += part
                    connection.close()

        thread = threading.Thread(target=close_each)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def test_watch_tells_what_is_wrong(site: Clocked, stack: Stack, simulator: Simulator) -> None:
    """For a wrong secret, path, port or function, or a dying worker, watch.sql names the cause."""
    orders = Function("generate_images", stack.postgres.folder, process_environment(stack, simulator))
    with silent_port() as silent, orders:
        for name, value, told in (
            ("secret", "not-the-secret-of-the-worker", "401, wrong_secret"),
            ("secret", SECRET, "200"),
            ("url", f"{site.function.url}/elsewhere", "generation_worker_url is not the address"),
            ("url", orders.url, "401, not_signed_in"),
            ("url", orders.url, "generate_images answered, which takes orders"),
            ("url", "http://127.0.0.1:9", "Nothing listens at the address"),
            ("url", f"http://127.0.0.1:{silent}", "ended in the middle of the call"),
        ):
            site.store(f"generation_worker_{name}", value)
            site.db.execute("select generation.call_worker('/')")
            wait_for(site.is_quiet)
            assert told in site.calls()[0], site.calls()[0]


def test_a_call_behind_a_long_run_is_no_trouble(site: Clocked) -> None:
    """While pg_net waits for one run, the next calls wait in its queue and are shown as in progress."""
    site.gemini.add_rule({"kind": "image", "hold": True}, prompt="[held]")
    job = site.order("held")
    assert site.gemini.ledger.wait(lambda ledger: ledger.outcomes().get("open") == 1)
    site.db.execute("select generation.call_worker('/', 'tick')")
    site.db.execute('update generation.worker_calls set "calledAt" = "calledAt" - interval \'300 seconds\'')
    assert [call.partition(": ")[2] for call in site.calls()] == ["under way", "under way"]
    assert len(site.db.execute("select from net.http_request_queue").fetchall()) == 2
    assert site.verdict("worker") == "Not yet: the first answer is still to come."
    paste(site.db, "call.sql")  # which waits for nothing that pg_net holds meanwhile
    site.gemini.release()
    wait_for(lambda: site.is_completed(job))
