"""The kick: an order calls the worker with its commit, and nothing of that is ever in an order's way."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest

from tests.support.databases import Database
from tests.support.installation import connect
from tests.support.queue_sql import Connection, Queue, blocked
from tests.support.schedule_sql import SECRET, URL, forget_kicks, paste, prepare, requests

INSERT = """
    insert into public.photo_generation_queue ("userId", "exampleImageUrl", "basePrompt")
    values ('old', 'training-photos/old/a', 'x')"""
AT_ONCE = 50


@pytest.fixture
def db(installed: Database) -> Connection:
    """A connection to the queue with the kick, where pg_net sends nothing: what it would is in its queue."""
    prepare(installed.connection)
    paste(installed.connection, "kick.sql")
    return installed.connection


@pytest.fixture
def another(installed: Database) -> Iterator[Callable[[], Connection]]:
    """Opens further connections: `other = another()`."""
    opened: list[Connection] = []

    def open_one() -> Connection:
        opened.append(connect(installed.url))
        opened[-1].execute("set lock_timeout = '10s'; set statement_timeout = '60s'")
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


def order(connection: Connection) -> None:
    """Orders one photo."""
    Queue(connection).enqueue()


def listen(connection: Connection) -> list[str]:
    """The lines that this connection causes in the server's log from now on."""
    told: list[str] = []
    connection.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    connection.execute("set client_min_messages = log")
    return told


def test_the_request_goes_out_with_the_commit(db: Connection, another: Callable[[], Connection]) -> None:
    """Nobody sees the request before the order is committed; then it is one, complete, to the worker."""
    other = another()
    with other.transaction():
        order(other)
        assert requests(db) == []
    (request,) = requests(db)
    assert (request["method"], request["url"], request["body"]) == ("POST", f"{URL}/", b"{}")
    assert request["headers"] == {"Content-Type": "application/json", "X-Worker-Secret": SECRET}
    assert request["timeout_milliseconds"] == 250_000


def test_a_rolled_back_order_sends_none(db: Connection) -> None:
    """A rolled-back order causes no call, and does not suppress a later one."""
    with db.transaction(force_rollback=True):
        order(db)
        assert len(requests(db)) == 1
    assert requests(db) == []
    order(db)
    assert len(requests(db)) == 1


def test_a_direct_insert_kicks(db: Connection) -> None:
    """An app that inserts rows as the service role kicks too, although it may not call the worker itself."""
    db.execute("set role service_role")
    db.execute(INSERT)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.execute("select generation.call_worker()")
    db.execute("reset role")
    assert len(requests(db)) == 1


def test_none_while_a_run_is_under_way(db: Connection) -> None:
    """A run claims again before it ends; one that ended, or died and is past its deadline, claims no more."""
    queue = Queue(db)
    run = queue.run()
    order(db)
    assert len(run.claim()) == 1
    forget_kicks(db)
    order(db)
    assert len(requests(db)) == 1
    db.execute("""update generation.runs set "endsBy" = now() - interval '1 second'""")
    order(db)
    assert len(requests(db)) == 2
    forget_kicks(db)
    db.execute("""update generation.runs set "endsBy" = now() + interval '1 minute'""")
    run.finish()
    order(db)
    assert len(requests(db)) == 3


def test_a_paused_queue_is_not_kicked(db: Connection) -> None:
    """A run would get nothing."""
    queue = Queue(db)
    queue.call("pause_generation")
    order(db)
    assert requests(db) == []
    queue.call("resume_generation")
    order(db)
    assert len(requests(db)) == 1


def test_one_kick_an_interval(db: Connection, another: Callable[[], Connection]) -> None:
    """Of fifty simultaneous orders one kicks, and after the interval another one; all are accepted."""
    connections = [another() for _ in range(AT_ONCE)]
    for kicks in (1, 2):
        start = Barrier(AT_ONCE)

        def order_with_all(connection: Connection, start: Barrier = start) -> None:
            start.wait()
            order(connection)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(order_with_all, connections))
        assert len(requests(db)) == kicks
        forget_kicks(db)
    assert Queue(db).written()["photo_generation_queue"] == 2 * AT_ONCE


def test_a_kick_of_a_wrong_clock_holds_none_back(db: Connection) -> None:
    """After a clock that was ahead has been put right, orders kick again at once."""
    order(db)
    db.execute("update generation.worker_calls set \"calledAt\" = clock_timestamp() + interval '15 hours'")
    order(db)
    assert len(requests(db)) == 2


def test_an_order_waits_for_no_other(db: Connection, another: Callable[[], Connection]) -> None:
    """While an order that kicks is not committed yet, another goes through, and leaves the kick to it."""
    first, second = another(), another()
    told = listen(second)
    with first.transaction():
        Queue(first).enqueue("first")
        Queue(second).enqueue("second")
        assert requests(db) == []
    assert len(requests(db)) == 1
    assert told == []  # it did not wait for a lock in vain, either


# was_kicked as it is, but that whoever has looked waits until the test lets go of its lock.
SLOWLY = """
    alter function generation.was_kicked() rename to looked;
    create function generation.was_kicked() returns boolean
    language plpgsql volatile set search_path = '' set lock_timeout = '10s' as $$
    declare v_answer boolean := generation.looked();
    begin
      perform pg_advisory_xact_lock_shared(4711);
      return v_answer;
    end $$"""


def test_an_order_looks_again(db: Connection, another: Callable[[], Connection]) -> None:
    """An order that saw no kick, while another committed its own, sees that one before it kicks."""
    holder, late = another(), Queue(another())
    db.execute(SLOWLY)
    holder.execute("select pg_advisory_lock(4711)")
    with blocked(late, lambda queue: order(queue.connection), Queue(db)) as ordered:
        db.execute("select generation.call_worker('/', 'kick')")
        holder.execute("select pg_advisory_unlock(4711)")
        ordered.result(20)
    assert len(requests(db)) == 1


BROKEN = {
    "pg_net is gone": ("drop schema net cascade", "3F000"),
    "pg_net refuses": ("alter table net.http_request_queue add check (timeout_milliseconds < 5)", "23514"),
    "Vault is gone": ("drop schema vault cascade", "42P01"),
    "no secret": ("delete from vault.secrets where name = 'generation_worker_secret'", "P0001"),
    "no address": ("delete from vault.secrets where name = 'generation_worker_url'", "P0001"),
    "call.sql is gone": ("drop function generation.call_worker(text, text)", "42883"),
    "its table is gone": ("drop table generation.worker_calls", "42P01"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_kick_breaks_no_order(db: Connection, case: str) -> None:
    """Whatever is missing, the order is accepted, and the log has one line: the SQLSTATE, and no secret."""
    statement, state = BROKEN[case]
    db.execute(statement.encode())
    told = listen(db)
    order(db)
    db.execute(INSERT)
    assert Queue(db).written()["photo_generation_queue"] == 2
    assert [re.findall(r"SQLSTATE (\w+)", line) for line in told] == [[state], [state]]
    assert SECRET not in str(told)


@pytest.mark.parametrize("table", ["net.http_request_queue", "generation.worker_calls"])
def test_a_locked_table_stops_no_order(db: Connection, another: Callable[[], Connection], table: str) -> None:
    """While pg_net is altered or upgraded, orders are accepted without waiting for its lock."""
    db.execute("set lock_timeout = 0")
    other = another()
    with other.transaction():
        other.execute(f"lock table {table}".encode())
        order(db)
        assert Queue(db).written()["photo_generation_queue"] == 1
    assert requests(db) == []
