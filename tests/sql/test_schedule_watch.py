"""watch.sql says what is the case: no alarm while a call may be well, the right cause when it is not."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from local.stack.postgres import Postgres
from tests.support.databases import TODAY, Database, database
from tests.support.installation import Rows
from tests.support.pg_net import timeout_message
from tests.support.queue_sql import Queue
from tests.support.schedule_sql import paste, prepare
from worker.run.summary import Summary

SUMMARY = {
    **Summary("70d52c8c-c85a-49b4-9f9e-040f7622af62", "w" * 40, "gemini-2.5-flash-image").as_json(3.284),
    "stopReason": "misconfigured",
    "completed": 1,
    "retried": 1,
    "problem": "Gemini refuses the key; make another at https://aistudio.google.com/apikey",
}
assert json.dumps(SUMMARY).index("problem") > 300
FORBIDDEN = "<html><head><title>403 Forbidden</title></head><body><h1>Error: Forbidden</h1></body></html>"
NO_LATER = "no later call"


class Watched(NamedTuple):
    """A queue whose calls and answers a test writes as pg_net would."""

    scratch: Database

    def call(self, seconds_ago: int, path: str = "/", queued: bool = False) -> int:
        """A call made some time ago; `queued` while pg_net has not had the last answer of its batch."""
        (row,) = self.scratch.connection.execute(
            "select generation.call_worker(%s, case %s when '/' then 'tick' else 'sweep' end) as id",
            [path, path],
        ).fetchall()
        self.scratch.connection.execute(
            'update generation.worker_calls set "calledAt" = now() - make_interval(secs => %s) '
            'where "requestId" = %s and "calledAt" > now() - interval \'5 seconds\'',
            [seconds_ago, row["id"]],
        )
        if not queued:
            self.scratch.connection.execute("delete from net.http_request_queue where id = %s", [row["id"]])
        return int(row["id"])

    def answer(
        self, request_id: int, seconds_ago: int, status: int | None, content: object = None, error: str = ""
    ) -> None:
        """An answer, or an error in its place; its batch began some time ago."""
        self.scratch.connection.execute(
            """
            insert into net._http_response (id, status_code, content, timed_out, error_msg, created)
            values (%s, %s, %s, %s, nullif(%s, ''), now() - make_interval(secs => %s))""",
            [request_id, status, content if isinstance(content, str | None) else json.dumps(content),
             error.startswith("Timeout"), error, seconds_ago],
        )  # fmt: skip

    def failed(self, seconds_ago: int) -> None:
        """A call that met a worker with another secret."""
        error = {"error": {"code": "wrong_secret", "message": "X-Worker-Secret does not match"}}
        self.answer(self.call(seconds_ago), seconds_ago, 401, error)

    def see(self, about: str) -> list[str]:
        """The table's lines about one subject."""
        rows = paste(self.scratch.connection, "watch.sql")
        assert {len(row) for row in rows} == {3}
        return [row["what"].replace("\n", " ") for row in rows if row["about"] == about]

    @property
    def worker(self) -> str:
        """The verdict on the worker, and what is to be done."""
        return " ".join([*self.see("worker"), *self.see("fix")[1:]])

    @property
    def everything(self) -> str:
        """The whole table."""
        return str(paste(self.scratch.connection, "watch.sql"))


@pytest.fixture(scope="module")
def prepared(postgres: Postgres) -> Iterator[tuple[Database, Rows]]:
    """An installation after call.sql, and what its tables hold then."""
    with database(postgres, TODAY) as made:
        prepare(made.connection)
        yield made, Rows(made.connection)


@pytest.fixture
def watched(prepared: tuple[Database, Rows]) -> Watched:
    """An installation right after call.sql, before any call."""
    made, rows = prepared
    rows.restore(made.connection)
    made.connection.execute("truncate net.http_request_queue, net._http_response restart identity")
    return Watched(made)


def test_without_the_extensions_it_says_what_is_missing(installed: Database) -> None:
    """Before any setup, it says what to run, and is no error."""
    rows = paste(installed.connection, "watch.sql")
    told = {row["about"]: row["what"] for row in rows}
    assert told["clock"] == "Not ticking: nothing is scheduled here."
    assert "sql/schedule/schedule.sql" in told["fix"]


def test_a_call_that_waits_behind_another_is_under_way(watched: Watched) -> None:
    """In a busy queue a call waits for the one before it and then for its own answer; that is no trouble."""
    for seconds in (505, 260, 200, 10):
        watched.call(seconds, queued=True)
    assert watched.worker == "Not yet: the first answer is still to come."
    assert [line.partition(": ")[2] for line in watched.see("call")] == ["under way"] * 4
    assert "restart" not in watched.everything


def test_a_call_without_a_trace_is_waited_for(watched: Watched) -> None:
    """A call that is not in pg_net's queue and has no answer is no trouble before 510 s have passed."""
    watched.call(505)
    assert watched.worker == "Not yet: the first answer is still to come."
    watched.scratch.connection.execute(
        'update generation.worker_calls set "calledAt" = "calledAt" - interval \'10 seconds\''
    )
    assert watched.worker.startswith("The last call failed.")
    assert "net.worker_restart()" in watched.worker


@pytest.mark.parametrize("queued", [True, False], ids=["still queued", "no trace"])
def test_no_alarm_while_jobs_complete(watched: Watched, queued: bool) -> None:
    """However late an answer is, nobody is told to restart anything while runs work."""
    watched.call(900, queued=queued)
    assert "net.worker_restart()" in watched.worker
    queue = Queue(watched.scratch.connection)
    queue.enqueue()
    run = queue.run()
    assert run.claim()
    for _ in ("under way", "ended"):
        assert watched.worker == "At work, but its last answer was lost."
        assert "restart" not in watched.everything
        run.finish()


@pytest.mark.parametrize(
    ("seconds", "status", "verdict"),
    [
        (400, None, "The last call failed."),
        (30, None, "A call is under way since"),
        (30, 200, "Answering."),
    ],
    ids=[NO_LATER, "a later call under way", "a later call answered"],
)
def test_the_latest_call_decides(watched: Watched, seconds: int, status: int | None, verdict: str) -> None:
    """A failure is no longer the verdict once a later call is in progress or answered."""
    watched.failed(300)
    later = watched.call(seconds, queued=status is None)
    if status:
        watched.answer(later, seconds, status, {"stopReason": "queue_empty"})
    assert watched.worker.startswith(verdict)
    assert ("must equal" in watched.worker) == (status is None)


def test_a_failing_sweep_is_told(watched: Watched) -> None:
    """Runs that are answered do not hide that sweeps fail."""
    watched.answer(watched.call(60), 60, 200, {"stopReason": "queue_empty"})
    watched.answer(
        watched.call(90, "/sweep"), 90, 500, {"error": {"code": "internal", "message": "unexpected"}}
    )
    assert watched.worker.startswith("Answering, but the last sweep failed. 500, internal: unexpected")


def test_a_problem_is_shown_whole(watched: Watched) -> None:
    """A run's problem and its fix are shown, however long the answer is."""
    watched.answer(watched.call(5), 5, 500, SUMMARY)
    (call,) = watched.see("call")
    assert call.startswith(
        "tick /: 500, misconfigured, completed 1, retried 1 problem: Gemini refuses the key;"
    )
    assert "https://aistudio.google.com/apikey" in call
    assert "https://aistudio.google.com/apikey" in watched.worker


def error(code: str) -> dict[str, Any]:
    """A refusal of ours."""
    return {"success": False, "error": {"code": code, "message": "a message"}}


ANSWERS: list[tuple[int, object, str]] = [
    (401, error("not_signed_in"), "generate_images answered, which takes orders"),
    (401, error("wrong_secret"), "must equal the worker's WORKER_SECRET"),
    (401, error("no_credentials"), "_CLOCK=pg_cron"),
    (401, {"code": 401, "message": "Missing authorization header"}, "The worker was not asked"),
    (403, FORBIDDEN, "Cloud Run must allow unauthenticated calls"),
    (404, "Not Found", "not the address of process_generation_queue"),
    (405, error("method_not_allowed"), "A redirect turned the POST"),
    (500, error("internal"), "the worker's log say why"),
    (503, None, "cannot reach Supabase"),
    (504, "upstream request timeout", "its timeout is below INVOCATION_TIMEOUT_SECONDS"),
]
ERRORS = [
    ("Couldn't connect to server", "start the worker, or open the port"),
    ("Couldn't resolve host name", "There is no such host"),
    ("SSL peer certificate or SSH remote key was not OK", "with a valid certificate"),
    ("Server returned nothing (no headers, no data)", "ended in the middle of the call: out of memory"),
    ("Failure when receiving data from the peer", "The connection broke during the call"),
    (timeout_message(250_000, connected=False), "does a firewall let the database through"),
    (timeout_message(250_000, connected=True), "The run goes on and ends by itself"),
]
CAUSES = [(*answer[:2], "", answer[2]) for answer in ANSWERS] + [
    (None, None, message, cause) for message, cause in ERRORS
]


@pytest.mark.parametrize(("status", "content", "error", "cause"), CAUSES)
def test_each_failure_is_told_with_its_cause(
    watched: Watched, status: int | None, content: object, error: str, cause: str
) -> None:
    """The answer of the worker, its platform or the network is shown, with its meaning and the fix."""
    watched.answer(watched.call(20), 20, status, content, error)
    (call,) = watched.see("call")
    assert cause in call
    assert cause in watched.worker
    assert "restart" not in watched.everything


def test_what_was_reached_is_not_called_broken(watched: Watched) -> None:
    """When the connection was lost or the time was up, a run that was at work since then counts."""
    queue = Queue(watched.scratch.connection)
    queue.enqueue()
    watched.answer(watched.call(300), 300, None, None, timeout_message(250_000, connected=True))
    assert watched.worker.startswith("The last call failed.")
    queue.run().claim()
    assert watched.worker == "At work, but its last answer was lost."


def test_ids_that_begin_again_mislead_nobody(watched: Watched) -> None:
    """After a crash pg_net's ids begin again: another call's answer is not taken for this one's."""
    lost = watched.call(2000)
    watched.scratch.connection.execute("alter sequence net.http_request_queue_id_seq restart with 1")
    watched.scratch.connection.execute(
        'update generation.worker_calls set "requestId" = 1 where "requestId" = %s', [lost]
    )
    watched.answer(1, 60, 500, "an app's own request")
    (call,) = watched.see("call")
    assert "an app's own request" not in call
    again = watched.call(30)
    assert again == 1
    watched.answer(1, 25, 200, {"stopReason": "queue_empty"})
    assert watched.worker == "Answering."


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (240, "A run may take 240 s, and pg_net waits 250 s."),
        (241, "A run may take 241 s, pg_net waits 250 s: too short."),
    ],
)
def test_pg_net_must_wait_ten_seconds_longer_than_a_run(watched: Watched, seconds: int, told: str) -> None:
    """How long runs may take is read from those that were called, and compared with pg_net's patience."""
    queue = Queue(watched.scratch.connection)
    queue.enqueue()
    queue.run().claim()
    (run,) = watched.scratch.connection.execute(
        'update generation.runs set "endsBy" = "startedAt" + make_interval(secs => %s) returning id',
        [seconds],
    ).fetchall()
    assert watched.see("timeout") == []
    watched.answer(watched.call(20), 20, 200, SUMMARY | {"runId": str(run["id"])})
    assert watched.see("timeout") == [told]
    assert ("INVOCATION_TIMEOUT_SECONDS to 240" in watched.everything) == (seconds > 240)


def test_it_fits_a_terminal_of_80_columns(watched: Watched) -> None:
    """In psql no line of the table is wider than 80; the verdicts come first."""
    for number, (status, content, message, _) in enumerate(CAUSES):
        watched.answer(watched.call(20 + number), 20 + number, status, content, message)
    watched.answer(watched.call(5), 5, 500, SUMMARY | {"problem": f"unbroken {'x' * 200} and more"})
    aligned = ("-P", "format=aligned", "-P", "tuples_only=off")
    done = watched.scratch.psql(*aligned, "-f", "sql/schedule/watch.sql")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    first = [line.split("|")[0].strip() for line in lines]
    assert [about for about in dict.fromkeys(first) if about in ("clock", "worker", "call")] == [
        "clock",
        "worker",
        "call",
    ]
    assert re.match(r" clock +\| +\| Not ticking: nothing is scheduled here\.", lines[2])
