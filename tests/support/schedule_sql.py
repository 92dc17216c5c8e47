"""The files of sql/schedule, run as operators run them, with simulated pg_net and Vault."""

from collections.abc import Callable

from psycopg.rows import DictRow

from local.install_sql import SQL
from tests.support.pg_net import install, store_secret
from tests.support.queue_sql import Connection

SCHEDULE = SQL / "schedule"
SECRET = "a-secret-for-the-clock"
URL = "https://worker.example.com/function"


def paste(connection: Connection, name: str, change: Callable[[str], str] = str) -> list[DictRow]:
    """Runs a file in one go, as the SQL editor does; the rows of its last result."""
    found: list[DictRow] = []
    try:
        cursor = connection.execute(change((SCHEDULE / name).read_text()).encode())
        while True:
            found = (cursor.fetchall() if cursor.description else []) or found
            if not cursor.nextset():
                return found
    finally:
        connection.rollback()


def every(seconds: int | str) -> Callable[[str], str]:
    """The change of schedule.sql that its header describes: a tick every so many seconds."""
    line = "-- set local generation.tick_seconds = '15';"

    def change(text: str) -> str:
        assert text.count(line) == 1
        return text.replace(line, f"set local generation.tick_seconds = '{seconds}';")

    return change


def prepare(connection: Connection, url: str = URL, secret: str = SECRET, made: bool = False) -> None:
    """Makes what Supabase has, unless it is made, stores both secrets and runs call.sql."""
    if not made:
        install(connection)
    store_secret(connection, "generation_worker_url", url)
    store_secret(connection, "generation_worker_secret", secret)
    paste(connection, "call.sql")


def requests(connection: Connection) -> list[DictRow]:
    """What pg_net would send now."""
    return connection.execute("select * from net.http_request_queue order by id").fetchall()


def forget_kicks(connection: Connection) -> None:
    """Lets the interval of the latest kick pass."""
    connection.execute('update generation.worker_calls set "calledAt" = "calledAt" - interval \'4 seconds\'')
