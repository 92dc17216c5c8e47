"""Stands in for pg_net's background worker: sends what was committed, and writes the answers down."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from psycopg.rows import DictRow

from tests.conftest import connect
from tests.queue_sql import Connection

FOLDER = Path(__file__).parent
TAKE = "delete from net.http_request_queue returning *"
ANSWER = """
    insert into net._http_response (id, status_code, content_type, headers, content, timed_out, error_msg)
    values (%(id)s, %(status)s, %(kind)s, null, %(content)s, %(timed_out)s, %(error)s)"""
NOTHING = {"status": None, "kind": None, "content": None, "timed_out": False, "error": None}


def install(connection: Connection) -> None:
    """Makes the schemas `net` and `vault`."""
    for name in ("pg_net.sql", "vault.sql"):
        connection.execute((FOLDER / name).read_bytes())


def store_secret(connection: Connection, name: str, value: str) -> None:
    """Creates a secret of Vault, or changes it, as the header of call.sql says."""
    found = connection.execute("select id from vault.secrets where name = %s", [name]).fetchone()
    if found:
        connection.execute("select vault.update_secret(%s, %s)", [found["id"], value])
    else:
        connection.execute("select vault.create_secret(%s, %s)", [value, name])


def send(request: DictRow) -> dict[str, Any]:
    """Posts one request as pg_net would, without following redirects; its answer's row."""
    seconds = request["timeout_milliseconds"] / 1000
    row = {**NOTHING, "id": request["id"]}
    try:
        with httpx.Client(timeout=seconds, trust_env=False) as http:
            got = http.post(request["url"], content=request["body"], headers=request["headers"])
    except httpx.TimeoutException:
        return row | {"timed_out": True, "error": f"Timeout of {seconds * 1000:.0f} ms reached."}
    except httpx.TransportError as error:
        return row | {"error": str(error)}
    return row | {"status": got.status_code, "kind": got.headers.get("content-type"), "content": got.text}


class PgNet:
    """The worker of one database, a thread; a context manager.

    Like pg_net 0.20 it wakes at a commit, takes all that is queued in one transaction, sends it at once, and
    takes nothing more, nor shows an answer, before the last of that batch has come (`src/worker.c`).
    """

    def __init__(self, db_url: str) -> None:
        self._url = db_url
        self._ended = False
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        with connect(self._url) as connection:
            connection.execute("notify net_wake")
        self._thread.join(30)

    def _work(self) -> None:
        with connect(self._url) as connection:
            connection.execute("listen net_wake")
            self._listening.set()
            while not self._ended:
                if not self._batch(connection):
                    next(connection.notifies(stop_after=1))

    def _batch(self, connection: Connection) -> bool:
        with connection.transaction(), ThreadPoolExecutor(10) as pool:
            taken = connection.execute(TAKE).fetchall()
            for row in pool.map(send, taken):
                connection.execute(ANSWER, row)
        return bool(taken)
