"""The gate's functions as Python calls, and `Moment`: a time that a test moves."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from psycopg import sql

from tests.support.queue_sql import NOON, Connection, Queue

MODEL = "model"


class Moment:
    """`generation.moment()` and `generation.clock()`, the same time in every session."""

    DEFINITION = sql.SQL("""
        create or replace function generation.moment() returns timestamptz
        language sql volatile set search_path = '' as {body};
        create or replace function generation.clock() returns timestamptz
        language sql stable set search_path = '' as {body}""")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._originals = [self._definition(name) for name in ("moment", "clock")]
        self.now = NOON
        self.set(NOON)

    def set(self, now: datetime) -> None:
        """Set the time."""
        self.now = now
        body = sql.Literal(f"select timestamptz '{now.isoformat()}'")
        self._connection.execute(self.DEFINITION.format(body=body))

    def advance(self, seconds: float) -> None:
        """Moves the time forward."""
        self.set(self.now + timedelta(seconds=seconds))

    def restore(self) -> None:
        """Puts the real time back."""
        for original in self._originals:
            self._connection.execute(original.encode())

    def _definition(self, name: str) -> str:
        query = "select pg_get_functiondef(('generation.' || %s || '()')::regprocedure) as text"
        return str((self._connection.execute(query, [name]).fetchone() or {})["text"])


@contextmanager
def still_time(connection: Connection) -> Iterator[Moment]:
    """The database's time is noon while the context is open."""
    moment = Moment(connection)
    try:
        yield moment
    finally:
        moment.restore()


@contextmanager
def still_time_as_installed(queue: Queue) -> Iterator[Moment]:
    """Time stands still at noon; three runs at once, as installed, and 60 starts a minute."""
    with still_time(queue.connection) as moment:
        caps(queue, maxRuns=3)
        allow(queue, 60)
        yield moment


class GateRun:
    """A run that has claimed, and so may ask the gate for starts; it lasts `seconds`.

    `alone`: those that asked before it have left the line.
    """

    def __init__(self, queue: Queue, seconds: float = 270, model: str = MODEL, *, alone: bool = True) -> None:
        self.queue, self.id, self.model = queue, uuid4(), model
        if alone:
            queue.connection.execute("delete from generation.gate_turns")
        queue.connection.execute(
            """insert into generation.runs (id, "workerId", "startedAt", "heardAt", "endsBy")
            select %s, 'w', c, c, c + make_interval(secs => %s) from generation.clock() as c""",
            [self.id, seconds],
        )

    def take(self, slots: int = 1000) -> Any:
        """What the gate answers."""
        return take(self.queue, self.id, slots, self.model)

    def starts(self, slots: int = 1000) -> list[float]:
        """The starts the gate gives, in seconds from now."""
        return [float(start) for start in self.take(slots)["slots"]]


def take(queue: Queue, run_id: UUID, slots: int, model: str = MODEL) -> Any:
    """The gate's answer to a run."""
    return queue.call("take_start_slots", p_run_id=run_id, p_model=model, p_slots=slots)


def allow(queue: Queue, rate: float = 60, burst: int = 1, model: str = MODEL, **more: float) -> None:
    """Sets a rate and a burst; `more` may have p_window_seconds, and p_grace_seconds in place of 1."""
    parameters = {"p_grace_seconds": 1.0, **more}
    queue.call("set_generation_rate", p_model=model, p_rate=rate, p_burst=burst, **parameters)


def limited(queue: Queue, period: str, epoch: int | None = None, **facts: object) -> Any:
    """Reports a 429 with its facts; the gate's answer."""
    told = {"period": period, **facts}
    return queue.call("report_rate_limit", p_model=MODEL, p_facts=told, p_epoch=epoch)


def gate(queue: Queue, model: str = MODEL) -> dict[str, Any]:
    """A gate's row, with its times as text: Python has no infinite ones."""
    row = queue.one("select to_jsonb(g) as gate from generation.gates as g where g.model = %s", [model])
    return dict(row["gate"])


def shown(queue: Queue, model: str = MODEL) -> dict[str, Any]:
    """A gate as `generation_gate` shows it."""
    (found,) = [row for row in queue.call("generation_gate")["gates"] if row["model"] == model]
    return dict(found)


def caps(queue: Queue, **limits: object) -> Any:
    """Sets caps; the answer."""
    return queue.call("set_generation_limits", p_limits=limits)


def refusal(answer: dict[str, Any]) -> tuple[str, float | None]:
    """Why a claim gave nothing, and when to come back."""
    assert answer["jobs"] == []
    return answer["reason"], answer["nextAttemptInSeconds"]


def most_in_a_window(starts: list[int], window: int, grace: int) -> int:
    """The most starts in any window, in microseconds, if each is up to `grace` late."""
    # The worst window opens with a start at its latest, and the later ones come at their earliest.
    return max(
        (sum(other < start + grace + window for other in starts[i:]) for i, start in enumerate(starts)),
        default=0,
    )
