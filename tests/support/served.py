"""Both functions, served by functions-framework, each in its own process, for a whole session."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.folder import Folder
from local.stack.stack import Stack
from tests.support.clone import descendants
from tests.support.raw_http import Reply, exchange
from tests.support.runs import process_environment

SECRET = "a-secret-of-the-tests-0123456789"
OPERATOR_SECRET = "an-operators-secret-of-the-tests"
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """A served function, and a credential that it accepts."""

    function: Function
    credential: str
    max_bytes: int

    @property
    def url(self) -> str:
        """Its address."""
        return self.function.url

    def head(self, line: str = "POST / HTTP/1.1", *headers: str) -> bytes:
        """A request's beginning, with the credential, for a connection that ends with the answer."""
        usual = ("Host: localhost", "Connection: close", self.credential)
        return "\r\n".join([line, *usual, *headers, "", ""]).encode()

    def post(self, body: bytes, *headers: str) -> Reply:
        """The reply to a body."""
        return exchange(
            self.url, self.head("POST / HTTP/1.1", f"Content-Length: {len(body)}", *headers), body
        )

    def memory(self) -> int:
        """The most memory that its processes have ever had resident, in bytes."""
        most = 0
        for pid in (self.function.pid, *descendants(self.function.pid)):
            fields = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            most += int(fields["VmHWM"].split()[0]) * 1024
        return most


def check_refusal(reply: Reply, *statuses: int) -> None:
    """The reply is one of the errors expected: short, clear, and without a look inside."""
    assert reply.status in statuses, reply.raw[:2000]
    assert len(reply.raw) < 4000
    for inside in (b"Traceback", b'File "', b"site-packages", b"worker/", b"psycopg", b"localhost"):
        assert inside not in reply.raw
    if b"application/json" in reply.raw and reply.body:  # an answer to HEAD has none
        error = json.loads(reply.body)["error"]
        assert error["code"]
        assert error["message"]


@pytest.fixture(scope="session")
def served_queue(
    stack: Stack, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Function]:
    """`process_generation_queue`, which knows SECRET and OPERATOR_SECRET."""
    secrets = {"WORKER_SECRET": SECRET, "OPERATOR_SECRET": OPERATOR_SECRET}
    environment = process_environment(stack, simulator) | secrets
    folder = Folder(tmp_path_factory.mktemp("served_queue"))
    with Function("process_generation_queue", folder, environment) as function:
        yield function


@pytest.fixture(scope="session")
def served_orders(
    stack: Stack, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Function]:
    """`generate_images`."""
    folder = Folder(tmp_path_factory.mktemp("served_orders"))
    with Function("generate_images", folder, process_environment(stack, simulator)) as function:
        yield function


@pytest.fixture(scope="session")
def queue_target(served_queue: Function) -> Target:
    """`process_generation_queue`."""
    return Target(served_queue, f"X-Worker-Secret: {SECRET}", 64 * 1024)


@pytest.fixture(scope="session")
def orders_target(served_orders: Function, stack: Stack) -> Target:
    """`generate_images`."""
    return Target(served_orders, f"Authorization: Bearer {stack.sign_up()[1]}", MIB)


@pytest.fixture(params=["queue_target", "orders_target"], ids=["queue", "orders"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Each function; after the test it still works, and its log has no unexpected error."""
    served: Target = request.getfixturevalue(request.param)
    yield served
    alive = httpx.get(f"{served.url}/health", timeout=30, trust_env=False)
    assert alive.status_code in (200, 404)
    assert "Traceback" not in served.function.log
    assert "request_failed" not in served.function.log
