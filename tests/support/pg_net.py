"""Stands in for pg_net's background worker: sends what was committed, and writes the answers down."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from psycopg.rows import DictRow

from tests.support.installation import connect
from tests.support.queue_sql import Connection

FOLDER = Path(__file__).parent
BATCH_SIZE = 200
TAKE = f"""
    delete from net.http_request_queue where id in (
      select id from net.http_request_queue order by id limit {BATCH_SIZE})
    returning *"""
ANSWER = """
    insert into net._http_response (id, status_code, content_type, headers, content, timed_out, error_msg)
    values (%(id)s, %(status)s, %(kind)s, %(headers)s, %(content)s, %(timed_out)s, %(error)s)"""
NOTHING = {
    "status": None, "kind": None, "headers": None, "content": None, "timed_out": False, "error": None,
}  # fmt: skip
STORE = (Path(__file__).parents[2] / "sql" / "schedule" / "call.sql").read_text()
STORE = "\n".join(line[5:] for line in STORE.splitlines() if line.startswith("--   "))
"""The statement of call.sql's header that stores both secrets."""

REFUSED = (
    (httpx.ConnectError, "Couldn't connect to server"),
    (httpx.RemoteProtocolError, "Server returned nothing (no headers, no data)"),
    (httpx.TransportError, "Failure when receiving data from the peer"),
    (httpx.TooManyRedirects, "Number of redirects hit maximum amount"),
)
"""What pg_net says instead of an answer: curl's own words (7.88)."""


def install(connection: Connection) -> None:
    """Makes the schemas `net` and `vault`."""
    for name in ("pg_net.sql", "vault.sql"):
        connection.execute((FOLDER / name).read_bytes())


def store_secret(connection: Connection, name: str, value: str) -> None:
    """Creates a secret of Vault, or changes it, with the statement in the header of call.sql."""
    texts = re.findall(r"\('(\w+)', '([^']+)'\)", STORE)
    statement = STORE
    for known, text in texts:
        quoted = value.replace("'", "''") if known == name else ""
        statement = statement.replace(f"'{text}'", f"'{quoted}'")
    assert name in dict(texts)
    connection.execute(statement.encode())


def send(request: DictRow) -> dict[str, Any]:
    """Posts one request as pg_net does, which follows redirects as curl does; its answer's row."""
    seconds = request["timeout_milliseconds"] / 1000
    row = {**NOTHING, "id": request["id"]}
    try:
        with httpx.Client(timeout=seconds, trust_env=False, follow_redirects=True) as http:
            got = http.post(request["url"], content=request["body"], headers=request["headers"])
    except httpx.TimeoutException as error:
        connected = not isinstance(error, httpx.ConnectTimeout)
        return row | {"timed_out": True, "error": timeout_message(seconds * 1000, connected)}
    except (httpx.TransportError, httpx.TooManyRedirects) as error:
        return row | {"error": next(text for kind, text in REFUSED if isinstance(error, kind))}
    headers = json.dumps(dict(got.headers))
    kind = got.headers.get("content-type")
    return row | {"status": got.status_code, "kind": kind, "headers": headers, "content": got.text or None}


def timeout_message(milliseconds: float, connected: bool) -> str:
    """pg_net's message for a call that timed out (`src/errors.c`)."""
    handshake, answer = (10.0, milliseconds - 20) if connected else (milliseconds - 10, 0.0)
    return (
        f"Timeout of {milliseconds:.0f} ms reached. Total time: {milliseconds:f} ms (DNS time: {10:f} ms, "
        f"TCP/SSL handshake time: {handshake:f} ms, HTTP Request/Response time: {answer:f} ms)"
    )


class PgNet:
    """The worker of one database, a thread; a context manager.

    Like pg_net 0.20 it wakes at a commit, takes up to 200 queued requests in one transaction, sends them at
    once, and takes nothing more, nor shows an answer, before the last of that batch has come (src/worker.c).
    """

    def __init__(self, db_url: str) -> None:
        self._url = db_url
        self._ended = False
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(60)
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
