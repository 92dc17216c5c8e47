"""The gate's pace: no window has more starts than the rate, and few windows have fewer."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from math import ceil
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.gate_sql import (
    MODEL,
    GateRun,
    Moment,
    allow,
    gate,
    limited,
    most_in_a_window,
    still_time,
    take,
)
from tests.support.queue_sql import Queue, blocked, refused

BOUNDED = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
MICRO = 1_000_000
ASKS = st.lists(st.tuples(st.integers(0, 40 * MICRO), st.integers(1, 50)), min_size=1, max_size=25)


def proven(queue: Queue, rate: int, model: str) -> None:
    """Create a gate whose rate a full window of starts has confirmed, so half of it may start at once."""
    allow(queue, rate, 0, model)
    queue.connection.execute(
        'update generation.gates set "provenStarts" = %s where model = %s', [rate, model]
    )


@pytest.fixture
def moment(queue: Queue) -> Iterator[Moment]:
    """A time that a test moves, noon at first."""
    with still_time(queue.connection) as moment:
        yield moment


@BOUNDED
@given(
    rate=st.integers(1, 300),
    burst=st.integers(0, 30),
    window=st.sampled_from([1.0, 6.0, 60.0]),
    share=st.sampled_from([0.001, 1 / 60, 0.2]),
    asks=ASKS,
)
@example(rate=7, burst=1, window=60.0, share=1 / 60, asks=[(10_000_007, 9)] * 25)
@example(rate=3, burst=30, window=6.0, share=1 / 60, asks=[(500_333, 50)] * 25)
def test_no_window_has_more_starts_than_the_rate(
    queue: Queue,
    moment: Moment,
    rate: int,
    burst: int,
    window: float,
    share: float,
    asks: list[tuple[int, int]],
) -> None:
    """No window exceeds the rate, however late within the grace each start is."""
    model, began = f"m{uuid4().hex}", moment.now
    proven(queue, rate, model)
    allow(queue, rate, burst, model, p_window_seconds=window, p_grace_seconds=window * share)
    starts: list[int] = []
    for microseconds, wanted in asks:
        moment.advance(microseconds / MICRO * window / 60)
        now = round((moment.now - began) / timedelta(microseconds=1))
        given_out = GateRun(queue, model=model).starts(wanted)
        assert given_out == sorted(given_out)
        assert all(0 <= start <= window / 6 for start in given_out)
        starts += [now + round(start * MICRO) for start in given_out]
    assert starts == sorted(starts)
    seen = most_in_a_window(starts, round(window * MICRO), int(window * share * MICRO))
    assert seen <= rate


@settings(BOUNDED, max_examples=10)
@given(rate=st.integers(1, 200), late=st.floats(0, 0.2), takers=st.integers(1, 4))
@example(rate=60, late=0.2, takers=3)
def test_runs_get_nearly_the_whole_rate(
    queue: Queue, moment: Moment, rate: int, late: float, takers: int
) -> None:
    """Runs that ask when they are told to, or a little late, get at least 97 % of the rate."""
    model, began = f"m{uuid4().hex}", moment.now
    allow(queue, rate, model=model)
    end, starts = 60 * max(4, 60 // rate), list[float]()
    runs = [GateRun(queue, 1e6, model) for _ in range(takers)]
    asks = [0.0] * takers
    while min(asks) < end:
        number = asks.index(min(asks))
        now = asks[number]
        moment.set(began + timedelta(seconds=now))
        answer = runs[number].take(rate)
        starts += [now + start for start in answer["slots"]]
        asks[number] += max(answer["askAgainInSeconds"], *answer["slots"], 0.001) + late
    assert sum(60 <= start < end for start in starts) >= 0.97 * rate * (end / 60 - 1) - 1


def test_a_small_order_starts_at_once_in_an_idle_queue(queue: Queue, moment: Moment) -> None:
    """Five images at ten a minute, which a new account has, start at once; after that starts are even."""
    allow(queue, 10, 0)
    assert GateRun(queue).starts(4) == [0] * 4
    assert GateRun(queue).starts(2) == [0]
    moment.advance(6)
    assert GateRun(queue).starts() == pytest.approx([61 / 6 * i - 6 for i in (1,)], abs=1e-4)


@BOUNDED
@given(rate=st.integers(1, 600), asks=ASKS)
def test_half_of_the_rate_starts_at_once_after_quiet(
    queue: Queue, moment: Moment, rate: int, asks: list[tuple[int, int]]
) -> None:
    """Once a rate is confirmed, half of it can start at once after a window without starts."""
    model = f"m{uuid4().hex}"
    proven(queue, rate, model)
    run = GateRun(queue, 1e6, model)
    for microseconds, wanted in asks:
        run.take(wanted)
        moment.advance(microseconds / MICRO)
    moment.advance(61 + 10)
    assert run.starts(min(ceil(rate / 2), 1000)) == [0] * ceil(rate / 2)


@BOUNDED
@given(rate=st.integers(1, 300), asks=ASKS)
def test_no_run_waits_longer_than_two_even_intervals(
    queue: Queue, moment: Moment, rate: int, asks: list[tuple[int, int]]
) -> None:
    """However starts were requested, the next can come at most two even intervals after the last one."""
    model = f"m{uuid4().hex}"
    proven(queue, rate, model)
    last = 0.0
    for microseconds, wanted in asks:
        answer = GateRun(queue, model=model).take(wanted)
        last = max([last, *map(float, answer["slots"])])
        assert answer["nextInSeconds"] <= max(last + 2 * 61 / rate + 60 / 256 + 0.001, 0)
        moment.advance(microseconds / MICRO)
        last -= microseconds / MICRO


def test_an_unconfirmed_rate_is_approached_step_by_step(queue: Queue, moment: Moment) -> None:
    """At most half of the starts that passed come at once, so few requests fail if the quota is lower."""
    allow(queue, 240, 0)
    assert GateRun(queue).starts().count(0) == 5
    moment.advance(61)
    passed = gate(queue)["startCounts"]
    moment.advance(61)
    assert GateRun(queue).starts().count(0) == ceil(sum(passed) / 2)
    moment.advance(122)
    limited(queue, "unknown", retryAfterSeconds=0)
    moment.advance(122)
    assert GateRun(queue).starts().count(0) == 5


def test_after_a_429_starts_are_even_for_a_window(queue: Queue, moment: Moment) -> None:
    """A 429 means that the quota is used up: for a window, only the first start comes at once."""
    allow(queue, 60, 30)
    limited(queue, "minute", limit=60, retryAfterSeconds=5)
    assert GateRun(queue).starts(2) == pytest.approx([61 / 60, 122 / 60], abs=1e-5)
    moment.advance(61)
    assert GateRun(queue).starts().count(0) >= 20


def test_after_a_block_starts_are_even_for_a_window(queue: Queue, moment: Moment) -> None:
    """When a block ends, the quota that is left is not used up at once."""
    allow(queue, 60, 30)
    limited(queue, "minute", limit=50, retryAfterSeconds=50)
    moment.advance(61)
    assert GateRun(queue).starts(5).count(0) == 1
    moment.advance(61)
    assert GateRun(queue).starts(20) == [0] * 20


def test_what_a_gate_keeps_is_bounded(queue: Queue, moment: Moment) -> None:
    """At the highest rate the list of starts stays short, and is complete."""
    allow(queue, 100_000)
    for _ in range(70):
        GateRun(queue).take(1000)
        moment.advance(1)
    row = gate(queue)
    assert len(row["startTimes"]) < 310
    assert sum(row["startCounts"]) >= 61_000


def test_a_burst_of_one_spaces_starts_by_window_plus_grace_over_rate(queue: Queue, moment: Moment) -> None:
    """No start is beyond the horizon."""
    allow(queue, 60)
    answer = GateRun(queue).take(1000)
    assert answer["slots"] == pytest.approx([i * 61 / 60 for i in range(10)], abs=1e-4)
    assert (answer["graceSeconds"], answer["horizonSeconds"], answer["reason"]) == (1, 10, None)
    assert answer["nextInSeconds"] == pytest.approx(10 * 61 / 60, abs=0.001)
    assert GateRun(queue).take(1)["slots"] == []


def test_a_quiet_gate_allows_a_burst_then_keeps_its_rate(queue: Queue, moment: Moment) -> None:
    """After the burst, no window has more starts than the rate allows."""
    allow(queue, 60, 5)
    starts = GateRun(queue).starts(8)
    assert starts == pytest.approx([0] * 5 + [61 / 56 * i for i in (1, 2, 3)], abs=1e-4)


def test_starts_end_with_the_run(queue: Queue, moment: Moment) -> None:
    """No start is later than the end of its run; this uses up no starts of other runs."""
    allow(queue, 60)
    assert GateRun(queue, seconds=3).starts() == pytest.approx([0, 61 / 60, 122 / 60], abs=1e-5)
    assert GateRun(queue).starts(1) == pytest.approx([3 * 61 / 60], abs=1e-5)


@pytest.mark.parametrize(("within", "wanted"), [(-1, 0), (0, 1), (3, 3), (3600, 10)])
def test_starts_are_within_the_time_that_the_run_asks_for(
    queue: Queue, moment: Moment, within: float, wanted: int
) -> None:
    """No start is later than the run can use it, or than the horizon; none is lost."""
    allow(queue, 60)
    run = GateRun(queue)
    parameters = {"p_run_id": run.id, "p_model": MODEL, "p_slots": 100}
    answer = queue.call("take_start_slots", **parameters, p_within_seconds=within)
    assert len(answer["slots"]) == wanted
    assert answer["nextInSeconds"] == pytest.approx(wanted * 61 / 60, abs=0.001)
    assert answer["reason"] == (None if wanted else "rate_limited")


def test_every_window_has_at_least_one_start(queue: Queue, moment: Moment) -> None:
    """At the slowest rate a window has one start, and the answer says when the next is due."""
    allow(queue, 1)
    assert GateRun(queue).starts() == [0]
    answer = GateRun(queue).take()
    assert (answer["slots"], answer["reason"], answer["nextInSeconds"]) == ([], "rate_limited", 61)
    moment.advance(answer["nextInSeconds"])
    assert GateRun(queue).starts() == [0]


def test_concurrent_runs_get_different_starts(
    queue: Queue, another: Callable[[], Queue], moment: Moment
) -> None:
    """The second run waits for the first."""
    allow(queue, 60)
    first, second = GateRun(queue), GateRun(queue)
    watcher = another()
    queue.connection.execute("begin")
    queue.connection.execute("select from generation.lock_gate(%s)", [MODEL])
    with blocked(another(), lambda other: take(other, second.id, 1)["slots"], watcher) as theirs:
        waits = watcher.one("select count(*) as n from pg_stat_activity where wait_event_type = 'Lock'")
        assert waits["n"] == 1
        ours = first.starts(4)
        queue.connection.execute("commit")
        together = ours + [float(start) for start in theirs.result()]
    assert together == pytest.approx([i * 61 / 60 for i in range(5)], abs=1e-5)


def test_concurrent_runs_create_one_gate_for_a_new_model(
    queue: Queue, another: Callable[[], Queue], moment: Moment
) -> None:
    """The second run waits for the first, and uses its gate."""
    first, second = (GateRun(queue, model="newer") for _ in range(2))
    watcher = another()
    queue.connection.execute("begin")
    assert first.starts(1) == [0]
    with blocked(another(), lambda other: take(other, second.id, 1, "newer")["slots"], watcher) as theirs:
        queue.connection.execute("commit")
        assert theirs.result() == pytest.approx([0], abs=1e-5)
    assert gate(queue, "newer")["startCounts"] == [2]


@BOUNDED
@given(rate=st.integers(1, 2000), burst=st.integers(1, 50))
def test_a_lost_answer_costs_at_most_a_horizon(queue: Queue, moment: Moment, rate: int, burst: int) -> None:
    """However many starts a lost answer had, the next is no later than a horizon and an interval."""
    model = f"m{uuid4().hex}"
    allow(queue, rate, burst, model)
    lost = GateRun(queue, model=model).take(1000)
    interval = 61 / (rate - min(burst, rate) + 1)
    assert lost["nextInSeconds"] <= 10 + interval + 0.001
    moment.advance(lost["nextInSeconds"] + 0.001)
    assert GateRun(queue, model=model).starts(1) == [0]


def test_quiet_time_is_not_saved_up(queue: Queue, moment: Moment) -> None:
    """An hour without a start gives no more than the burst afterwards."""
    allow(queue, 60, 3)
    moment.advance(3600)
    assert GateRun(queue).starts().count(0) == 3


@pytest.mark.parametrize("slots", [None, 0, 1001])
def test_a_wrong_number_of_slots_is_refused(queue: Queue, slots: int | None) -> None:
    """`p_slots` must be 1 to 1000."""
    run = GateRun(queue)
    with refused("400", "out_of_range", "p_slots"):
        queue.call("take_start_slots", p_run_id=run.id, p_model=MODEL, p_slots=slots)


@pytest.mark.parametrize("model", [None, "", "a b", "-x", "x" * 201])
def test_a_gate_needs_a_model_name(queue: Queue, model: str | None) -> None:
    """A missing or malformed name is refused."""
    with refused("400", "bad_model", "p_model"):
        queue.call("take_start_slots", p_run_id=GateRun(queue).id, p_model=model, p_slots=1)
    with refused("400", "bad_model", "p_model"):
        queue.call("report_rate_limit", p_model=model, p_facts={"period": "day"}, p_epoch=None)


def test_a_finished_or_unknown_run_gets_no_start(queue: Queue) -> None:
    """A run that has been finished, or never claimed anything, gets no start and uses none up."""
    run = GateRun(queue)
    queue.call("finish_generation_run", p_run_id=run.id, p_worker_id="w", p_summary={})
    for run_id in (run.id, uuid4()):
        with refused("409", "run_finished"):
            take(queue, run_id, 1)
    assert gate(queue)["startedToday"] == 0
