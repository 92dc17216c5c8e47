"""watch.sql: what each answer of the worker means; its verdicts are tested where pg_cron is."""

import pytest
from psycopg.rows import DictRow

from tests.databases import Database
from tests.queue_sql import Connection
from tests.schedule_sql import SECRET, paste, prepare

pytest_plugins = ("tests.database_fixtures",)

# status, timed_out, error_msg: the beginning of what it means
ANSWERS = [
    (200, False, None, "ok"),
    (202, False, None, "ok"),
    (302, False, None, "pg_net follows no redirect"),
    (401, False, None, "the secret is wrong"),
    (403, False, None, "refused before the worker was asked"),
    (404, False, None, "generation_worker_url is not the address"),
    (405, False, None, "generation_worker_url is not the address"),
    (409, False, None, "refused: the answer says why"),
    (429, False, None, "Cloud Run has no instance free"),
    (500, False, None, "the worker failed or is misconfigured"),
    (502, False, None, "the worker failed or is misconfigured"),
    (503, False, None, "the worker is not up"),
    (504, False, None, "the platform ended the run"),
    (None, True, "Timeout of 250000 ms reached.", "no answer within 250 s"),
    (None, False, "Couldn't resolve host name", "the worker was not reached"),
]
ANSWER = """
    insert into net._http_response (id, status_code, timed_out, error_msg, content)
    select "requestId", %s, %s, %s, '{"stopReason": "queue_empty"}' from generation.worker_calls"""


@pytest.fixture
def db(scratch: Database) -> Connection:
    """A connection to a queue that can call the worker, and has done it once."""
    scratch.install()
    prepare(scratch.connection)
    scratch.connection.execute("select generation.call_worker('/', 'tick')")
    return scratch.connection


def call(connection: Connection) -> DictRow:
    """The row of the latest call."""
    return next(row for row in paste(connection, "watch.sql") if row["part"] == "call")


@pytest.mark.parametrize(("status", "timed_out", "error", "meaning"), ANSWERS)
def test_what_an_answer_means(
    db: Connection, status: int | None, timed_out: bool, error: str | None, meaning: str
) -> None:
    """Every kind of answer is shown beside its call, with what it means."""
    db.execute(ANSWER, [status, timed_out, error])
    row = call(db)
    assert row["meaning"].startswith(meaning)
    assert (row["what"], row["result"].startswith(str(status or error))) == ("tick /", True)


def test_a_call_without_an_answer(db: Connection) -> None:
    """A call is under way until its time is over; then its answer is lost. Others' are not its own."""
    db.execute("insert into net._http_response (id, status_code) values (-1, 200)")
    assert call(db)["meaning"] == "under way"
    db.execute("""update generation.worker_calls set "calledAt" = now() - interval '5 minutes'""")
    assert call(db)["meaning"].startswith("no answer is kept")


def test_an_answer_from_before_a_crash_is_not_taken(db: Connection) -> None:
    """Ids begin again after a crash of the server: an answer older than the call belongs to another."""
    db.execute(ANSWER, [401, False, None])
    db.execute("update net._http_response set created = now() - interval '1 hour'")
    assert call(db)["meaning"] == "under way"


def test_it_works_without_what_it_looks_at(scratch: Database, db: Connection) -> None:
    """Without pg_cron and pg_net it says that nothing is scheduled, shows no secret, and changes nothing."""
    assert SECRET not in str(paste(db, "watch.sql"))
    db.execute("drop schema net cascade")
    (row,) = paste(db, "watch.sql")
    assert row["result"].startswith("not ticking: nothing is scheduled here")
