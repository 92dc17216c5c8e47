"""Runs that wait at the gate take turns: who comes next, when to ask, and what becomes of absent ones."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.gate_sql import MODEL, GateRun, Moment, allow, still_time
from tests.support.queue_sql import Queue, refused

BOUNDED = settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
HANDS = 10


@pytest.fixture
def moment(queue: Queue) -> Iterator[Moment]:
    """A time that stands still at noon until a test moves it."""
    with still_time(queue.connection) as moment:
        yield moment


class Asker(GateRun):
    """A run that always has ten images in hand, and asks when it is told to."""

    def __init__(self, queue: Queue, *users: str, model: str = MODEL) -> None:
        super().__init__(queue, 1e6, model, alone=False)
        self.users = list(users) or [str(self.id)]
        self.questions = self.started = 0
        self.runs_of_users: dict[str, int] = {}
        self.ask_at = 0.0
        self.first_at: float | None = None

    def ask(self, now: float, slots: int = HANDS) -> list[float]:
        """Asks for starts; it asks again at its turn, but not before it has used those it has got."""
        answer = self.queue.call(
            "take_start_slots", p_run_id=self.id, p_model=self.model, p_slots=slots, p_users=self.users
        )
        given = [float(start) for start in answer["slots"]]
        self.runs_of_users = answer["runsOfUsers"]
        self.questions += 1
        self.started += len(given)
        if given and self.first_at is None:
            self.first_at = now + given[0]
        self.ask_at = now + max(answer["askAgainInSeconds"], *given, 0.05)
        return given


def work(moment: Moment, runs: list[Asker], until: float, since: float = 0.0) -> None:
    """Each asks at its time, until a time in seconds from noon."""
    noon = moment.now - timedelta(seconds=since)
    while min(run.ask_at for run in runs) < until:
        run = min(runs, key=lambda run: run.ask_at)
        moment.set(noon + timedelta(seconds=run.ask_at))
        run.ask(run.ask_at)
    moment.set(noon + timedelta(seconds=until))


@pytest.fixture
def crowd(queue: Queue, moment: Moment) -> list[Asker]:
    """Thirty runs at a gate of 600 starts a minute, of one user."""
    allow(queue, 600)
    return [Asker(queue, "user") for _ in range(30)]


def test_a_crowd_asks_half_a_question_a_start_at_most(moment: Moment, crowd: list[Asker]) -> None:
    """Each is told when its turn can have come, so that hardly a question is in vain; all get as many."""
    work(moment, crowd, 30)
    before = [(run.questions, run.started) for run in crowd]
    work(moment, crowd, 90, 30)
    questions = [run.questions - asked for run, (asked, _) in zip(crowd, before, strict=True)]
    starts = [run.started - had for run, (_, had) in zip(crowd, before, strict=True)]
    assert sum(questions) <= 0.5 * sum(starts)
    assert sum(starts) >= 0.97 * 600
    assert max(starts) - min(starts) <= HANDS


def test_a_newcomer_does_not_wait_for_the_whole_line(
    queue: Queue, moment: Moment, crowd: list[Asker]
) -> None:
    """A new run comes before all runs that have had a turn, but not before starts that they already have."""
    work(moment, crowd, 30)
    late = Asker(queue, "another")
    late.ask_at = 30
    work(moment, [*crowd, late], 50, 30)
    fair_share = len(crowd) / 10
    assert late.first_at is not None
    assert late.first_at - 30 <= 2 * fair_share + 10 / 2


@BOUNDED
@given(dead=st.integers(1, 24))
@example(dead=24)
def test_dead_runs_leave_their_starts_to_the_others(queue: Queue, moment: Moment, dead: int) -> None:
    """Once the time of those who died in line is over, the others have all there is."""
    model = f"m{uuid4().hex}"
    allow(queue, 600, model=model)
    crowd = [Asker(queue, "user", model=model) for _ in range(30)]
    work(moment, crowd, 20)
    living = crowd[dead:]
    work(moment, living, 40, 20)
    before = sum(run.started for run in living)
    work(moment, living, 70, 40)
    assert sum(run.started for run in living) - before >= 0.95 * 300


def test_absent_runs_are_forgotten(queue: Queue, moment: Moment) -> None:
    """A run of which nothing has been heard for 90 s leaves no trace at the gate."""
    allow(queue, 60)
    Asker(queue).ask(0)
    moment.advance(91)
    run = Asker(queue)
    run.ask(91)
    rows = queue.connection.execute('select "runId" from generation.gate_turns').fetchall()
    assert [row["runId"] for row in rows] == [run.id]


def test_a_lone_run_gets_a_whole_horizon(queue: Queue, moment: Moment) -> None:
    """Nobody else waits: neither does the run, and its turn is as large as what it wants."""
    allow(queue, 60)
    run = Asker(queue)
    assert len(run.ask(0)) == 10
    assert run.ask_at == pytest.approx(10 * 61 / 60 - 10 + 9 * 61 / 60, abs=9.2)


def test_room_is_given_at_once_also_while_others_wait(queue: Queue, moment: Moment) -> None:
    """What nobody's turn needs goes to whoever asks."""
    allow(queue, 60, 40)
    first, second = Asker(queue), Asker(queue)
    assert first.ask(0, 100).count(0) == 40
    assert second.ask(0, 20) == []
    moment.advance(71)
    assert second.ask(71, 20).count(0) == 20


def test_users_share_the_starts_and_not_runs(queue: Queue, moment: Moment) -> None:
    """The run of a user in one of three runs can give that user nearly half of all starts."""
    allow(queue, 60)
    runs = [Asker(queue, "many") for _ in range(3)]
    work(moment, runs, 30)
    starts = Counter({run.id: run.started for run in runs})
    runs[2].users.append("few")
    runs[2].ask_at = 30
    work(moment, runs, 150, 30)
    got = {run.id: run.started - starts[run.id] for run in runs}
    assert sum(got.values()) >= 0.95 * 120
    assert runs[2].runs_of_users == {"many": 3, "few": 1}
    assert got[runs[2].id] * 3 / 4 >= 0.45 * sum(got.values())


@pytest.mark.parametrize(("rate", "turns"), [(60, [1, 2, 4, 5]), (600, [1, 5, 5, 5])])
def test_a_turn_is_five_starts_at_most(queue: Queue, moment: Moment, rate: int, turns: list[int]) -> None:
    """However much a run counts; or it would have more starts than places, and others would wait for long."""
    allow(queue, rate)
    row = queue.one(
        """select array_agg(generation.turn_starts(g, w.weight) order by w.weight) as turns
        from generation.gates as g, unnest(array[0.01, 1, 2, 30]::float[]) as w (weight)
        where g.model = %s""",
        [MODEL],
    )
    assert row["turns"] == turns


@pytest.mark.parametrize("window", [6.0, 60.0])
def test_the_next_question_is_never_far(queue: Queue, moment: Moment, window: float) -> None:
    """In a long line, a run learns within 80 s that the rate has been raised, and does not ask sooner."""
    allow(queue, 1, p_window_seconds=window)
    runs = [Asker(queue) for _ in range(20)]
    told = [run.take(10)["askAgainInSeconds"] for run in runs]
    assert max(told) == 80


def test_a_finished_run_is_out_of_the_line(queue: Queue, moment: Moment) -> None:
    """Its end gives up its place at once; the next one is not told to wait for it."""
    allow(queue, 60)
    finished, waiting = Asker(queue), Asker(queue)
    finished.ask(0)
    queue.call("finish_generation_run", p_run_id=finished.id, p_worker_id="w", p_summary={})
    moment.advance(4)
    assert len(waiting.ask(4)) == 4


def test_a_run_that_names_no_users_has_its_turns(queue: Queue, moment: Moment) -> None:
    """Older workers name no users; their runs get turns too."""
    allow(queue, 60)
    assert GateRun(queue).starts(1) == [0]


@pytest.mark.parametrize("users", [{}, [], [None], ["somebody", 1]])
def test_what_names_no_users_is_refused(queue: Queue, moment: Moment, users: object) -> None:
    """A list of user ids without one has no share of the starts."""
    run = GateRun(queue)
    with refused("400", "wrong_type", "p_users"):
        queue.call("take_start_slots", p_run_id=run.id, p_model=MODEL, p_slots=1, p_users=users)
