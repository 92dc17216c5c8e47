"""Fixtures on the real local stack. No test reads this machine's settings or leaves loopback."""

import contextlib
import gc
import ipaddress
import os
import re
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import certifi
import httpx
import psycopg
import pytest
from psycopg.rows import DictRow
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from local.stack.errors import StackError
from local.stack.postgres import Postgres
from local.stack.stack import Stack
from tests.support.bare import checkout
from tests.support.callers import callers, everybody, scene
from tests.support.command_line import cli
from tests.support.database_fixtures import earlier, installed, postgres, scratch
from tests.support.installation import Installation, User, connect, data_folder
from tests.support.logging_fixtures import restored_logging
from tests.support.queue_fixtures import another, as_installed, clock, queue
from tests.support.runs import no_backoff, site
from tests.support.served import orders_target, queue_target, served_orders, served_queue, target
from tests.support.tokens import signer

# Fixtures that more than one folder uses; those of one folder are in its own conftest.
__all__ = [
    "another",
    "as_installed",
    "callers",
    "checkout",
    "cli",
    "clock",
    "earlier",
    "everybody",
    "installed",
    "no_backoff",
    "orders_target",
    "postgres",
    "queue",
    "queue_target",
    "restored_logging",
    "scene",
    "scratch",
    "served_orders",
    "served_queue",
    "signer",
    "site",
    "target",
]

QUICK = "not slow and not system"  # what `make test` selects
LONG_MODULE = re.compile(r"^pytestmark = pytest\.mark\.(slow|system)$", re.MULTILINE)
FOREIGN = ("SUPABASE_", "GEMINI_", "GOOGLE_", "WORKER_", "OIDC_", "CLOUD_RUN_", "K_", "FUNCTION_", "PG")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")

for name in list(os.environ):
    if name.startswith(FOREIGN) or name.lower() in PROXIES:
        del os.environ[name]


gc.disable()  # nothing that is imported and collected is garbage: looking for some takes half a second


def pytest_collection_finish() -> None:
    """Collects garbage from now on, rarely, and not among what has been imported."""
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves modules of which nothing is selected unread: their libraries take seconds in each process."""
    quick = config.getoption("markexpr") == QUICK and collection_path.suffix == ".py"
    return True if quick and LONG_MODULE.search(collection_path.read_text()) else None


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    return host in ("localhost", "")


def _refuse_strangers(event: str, arguments: tuple[Any, ...]) -> None:
    """Makes a connection to another machine an error, and not one that looks like a network failure."""
    if event != "socket.connect" or not isinstance(arguments[1], tuple):
        return
    host = str(arguments[1][0])
    if not _is_loopback(host):
        raise AssertionError(f"A test tried to connect to {host}; only loopback is allowed.")


sys.addaudithook(_refuse_strangers)

_AUTHORITIES = (certifi.where(), os.environ.get("SSL_CERT_FILE"))
_load_verify_locations = ssl.SSLContext.load_verify_locations


def _load_needed_authorities(
    context: ssl.SSLContext,
    cafile: str | None = None,
    capath: str | None = None,
    cadata: str | bytes | None = None,
) -> None:
    """Skips public authorities: they sign no server on loopback, and reading them takes 50 ms a client."""
    if cafile is None or cafile not in _AUTHORITIES:
        _load_verify_locations(context, cafile, capath, cadata)


ssl.SSLContext.load_verify_locations = _load_needed_authorities  # type: ignore[assignment, method-assign]


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """The one stack of the session, in a folder that goes with it."""
    with data_folder() as folder:
        postgres = Postgres(folder, durable=False, settings=("max_wal_size=128MB",))
        try:
            with Stack(folder, postgres=postgres) as started:
                made = Installation(started, connect(started.db_url))
                yield made
                made.close()
        except StackError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture(scope="session")
def stack(installation: Installation) -> Stack:
    """A Supabase with this project's SQL, shared by the whole session; `db` empties it."""
    return installation.stack


@pytest.fixture(scope="session")
def simulator() -> Iterator[Any]:
    """A Gemini simulator, shared by the whole session; each test resets what it sets."""
    from local.simulator.gemini import Simulator

    with Simulator() as started:
        yield started


@pytest.fixture
def db(installation: Installation) -> Iterator[psycopg.Connection[DictRow]]:
    """A superuser's connection to a database in the state of a fresh installation."""
    with installation.connection() as connection:
        installation.rows.restore(connection)
        yield connection


async def _client(http: httpx.AsyncClient, stack: Stack, key: str, token: str = "") -> AsyncClient:
    assert _is_loopback(httpx.URL(stack.url).host), f"{stack.url} is not on loopback"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    options = AsyncClientOptions(headers=headers, httpx_client=http, auto_refresh_token=False)
    return await acreate_client(stack.url, key, options)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """The connections of this test's Supabase clients."""
    async with httpx.AsyncClient(timeout=30) as client:
        yield client


@pytest.fixture
async def service(stack: Stack, http: httpx.AsyncClient) -> AsyncClient:
    """A Supabase client with the service role's key."""
    return await _client(http, stack, stack.secret_key)


@pytest.fixture
async def anyone(stack: Stack, http: httpx.AsyncClient) -> AsyncClient:
    """A Supabase client that has not signed in."""
    return await _client(http, stack, stack.publishable_key)


@pytest.fixture
def user(stack: Stack, http: httpx.AsyncClient) -> Callable[[], Awaitable[User]]:
    """Signs somebody new up: `someone = await user()`."""

    async def sign_up() -> User:
        user_id, token = stack.sign_up()
        return User(user_id, await _client(http, stack, stack.publishable_key, token))

    return sign_up


@pytest.fixture
def program() -> Callable[[str, str], str]:
    """The path of a system program, or a failure that names the package to install; never a skip."""

    def find(name: str, package: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.fail(f"{name} is missing: apt-get install {package}", pytrace=False)
        return path

    return find
