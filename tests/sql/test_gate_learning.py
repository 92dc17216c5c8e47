"""What a 429 teaches the gate, and how it recovers; every form of facts, both days of changing clocks."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.gate_sql import MODEL, GateRun, Moment, allow, gate, limited, shown, still_time
from tests.support.queue_sql import Queue, refused

INTERVAL = 61 / 60


@pytest.fixture
def moment(queue: Queue) -> Iterator[Moment]:
    """A time that a test moves, noon at first; the gate allows 60 starts a minute."""
    with still_time(queue.connection) as moment:
        allow(queue, 60)
        yield moment


def test_a_new_per_minute_limit_becomes_the_rate(queue: Queue, moment: Moment) -> None:
    """Starts already given out are void, and new ones wait as asked."""
    epoch = GateRun(queue).take(1)["epoch"]
    answer = limited(queue, "minute", epoch, limit=10, retryAfterSeconds=21.5)
    assert answer == {"epoch": epoch + 1, "rate": 10, "blockedForSeconds": 21.5}
    closed = GateRun(queue).take(1)
    assert (closed["slots"], closed["reason"], closed["nextInSeconds"]) == ([], "rate_limited", 21.5)
    moment.advance(21.5)
    assert GateRun(queue).starts(3) == pytest.approx([0, 6.1], abs=1e-5)
    told = shown(queue)
    assert (told["rate"], told["allowed"], told["learnedRate"], told["learnedFrom"]) == (10, 60, 10, "stated")


def test_a_per_minute_429_without_a_delay_blocks_for_a_window(queue: Queue, moment: Moment) -> None:
    """A per-minute 429 that names no delay blocks for a window."""
    assert limited(queue, "minute", limit=10)["blockedForSeconds"] == 60


def test_starts_ahead_of_the_end_of_a_block(queue: Queue, moment: Moment) -> None:
    """Within a horizon of its end a block gives starts again, none of them before its end."""
    limited(queue, "minute", limit=20, retryAfterSeconds=15)
    moment.advance(6)
    starts = GateRun(queue).starts()
    assert starts[0] == 9
    assert all(9 <= start <= 10 for start in starts)


def test_a_429_at_the_known_rate_takes_the_place_of_a_start(queue: Queue, moment: Moment) -> None:
    """A second one soon after blocks."""
    epoch = GateRun(queue).take(1)["epoch"]
    first = limited(queue, "minute", epoch, limit=60, retryAfterSeconds=40)
    assert first == {"epoch": epoch, "rate": 60, "blockedForSeconds": 0}
    assert GateRun(queue).starts(1) == pytest.approx([2 * INTERVAL], abs=1e-5)
    moment.advance(59)
    second = limited(queue, "minute", epoch, limit=60, retryAfterSeconds=40)
    assert second == {"epoch": epoch + 1, "rate": 60, "blockedForSeconds": 40}


@pytest.mark.parametrize("limit", [None, 60, 90])
def test_a_lone_429_neither_blocks_nor_lowers_the_rate(
    queue: Queue, moment: Moment, limit: int | None
) -> None:
    """Such 429s are more than a window apart at the known rate, or below the stated limit."""
    for _ in range(3):
        answer = limited(queue, "minute", retryAfterSeconds=40, limit=limit)
        assert (answer["rate"], answer["blockedForSeconds"]) == (60, 0)
        assert GateRun(queue).starts(1) == pytest.approx([INTERVAL], abs=1e-5)
        moment.advance(61)


def test_a_higher_stated_limit_replaces_the_learned_one(queue: Queue, moment: Moment) -> None:
    """Up to what the operator allows."""
    limited(queue, "minute", limit=10, retryAfterSeconds=0)
    assert limited(queue, "minute", limit=20, retryAfterSeconds=0)["rate"] == 20
    assert limited(queue, "minute", limit=90, retryAfterSeconds=0)["rate"] == 60


@pytest.mark.parametrize(
    ("now", "reset"),
    [
        ("2026-05-04T12:00", "2026-05-05T07:00"),
        ("2026-03-08T08:00", "2026-03-09T07:00"),  # the day that has 23 hours begins
        ("2026-03-08T07:59:48", "2026-03-08T08:00"),
        ("2026-03-08T12:00", "2026-03-09T07:00"),
        ("2026-11-01T07:00", "2026-11-02T08:00"),  # the day that has 25 hours begins
        ("2026-11-01T06:59:48", "2026-11-01T07:00"),
        ("2026-11-01T09:30", "2026-11-02T08:00"),
    ],
)
def test_a_daily_quota_blocks_until_midnight_in_california(
    queue: Queue, moment: Moment, now: str, reset: str
) -> None:
    """The block ends at midnight on any day, whatever retry delay the 429 names."""
    moment.set(datetime.fromisoformat(now).replace(tzinfo=UTC))
    until = datetime.fromisoformat(reset).replace(tzinfo=UTC)
    epoch = GateRun(queue).take(1)["epoch"]
    answer = limited(queue, "day", epoch, retryAfterSeconds=7, limit=200)
    seconds = (until - moment.now).total_seconds()
    assert answer == {"epoch": epoch + 1, "rate": 60, "blockedForSeconds": seconds}
    assert GateRun(queue).take(1)["nextInSeconds"] == seconds
    moment.set(until - timedelta(seconds=11))
    assert GateRun(queue).starts() == []
    moment.set(until)
    assert GateRun(queue).starts(1) == [0]
    assert shown(queue)["startedToday"] == 1


def test_each_429_without_facts_lowers_the_rate_and_blocks_longer(queue: Queue, moment: Moment) -> None:
    """The rate falls to 70 % each time; the block grows, with jitter."""
    rate, widest = 60.0, 0.0
    for number in range(1, 9):
        answer = limited(queue, "unknown")
        rate = rate * 0.7
        most = min(2**number, 60)
        assert answer["rate"] == pytest.approx(max(rate, 1))
        assert most / 2 <= answer["blockedForSeconds"] <= most
        widest = max(widest, answer["blockedForSeconds"])
        moment.advance(answer["blockedForSeconds"])
    assert widest > 16
    assert shown(queue)["learnedFrom"] == "decrease"


def test_unknown_has_a_floor(queue: Queue, moment: Moment) -> None:
    """However often it happens, one start a window remains, and no block is longer than a window."""
    for _ in range(30):
        answer = limited(queue, "unknown")
    assert answer["rate"] == 1
    assert answer["blockedForSeconds"] <= 60


def test_unknown_waits_as_long_as_asked(queue: Queue, moment: Moment) -> None:
    """A delay that a 429 names is never cut short by the gate's own."""
    assert limited(queue, "unknown", retryAfterSeconds=47.25)["blockedForSeconds"] == 47.25


def test_block_has_jitter(queue: Queue, moment: Moment) -> None:
    """The whole range of the jitter is reached, from half of the block to all of it."""
    seen = []
    for _ in range(60):
        allow(queue, 60)
        seen.append(limited(queue, "unknown")["blockedForSeconds"])
    assert min(seen) < 1.2
    assert max(seen) > 1.8
    assert len(set(seen)) > 30


@pytest.mark.parametrize("period", ["minute", "day", "unknown"])
def test_a_429_of_a_call_before_the_last_change_changes_nothing(
    queue: Queue, moment: Moment, period: str
) -> None:
    """The gate already reacted."""
    old = GateRun(queue).take(1)["epoch"]
    limited(queue, "minute", old, limit=10, retryAfterSeconds=5)
    before = gate(queue)
    answer = limited(queue, period, old, limit=5, retryAfterSeconds=500)
    assert answer == {"epoch": old + 1, "rate": 10, "blockedForSeconds": 5}
    assert gate(queue) == before


def test_starts_in_a_block_do_not_count(queue: Queue, moment: Moment) -> None:
    """Starts that fall into a block are void and do not delay the next ones."""
    run = GateRun(queue)
    for _ in range(6):
        assert len(run.starts(10)) == 10
        moment.advance(10)
    epoch = run.take(10)["epoch"]
    limited(queue, "minute", epoch, limit=30, retryAfterSeconds=20)
    moment.advance(31.5)
    assert run.starts(1)[0] < 1


def test_starts_after_a_block_still_count(queue: Queue, moment: Moment) -> None:
    """A run that has not heard of the block may use them."""
    run = GateRun(queue)
    for _ in range(6):
        assert len(run.starts(10)) == 10
        moment.advance(10)
    epoch = run.take(10)["epoch"]
    limited(queue, "minute", epoch, limit=30, retryAfterSeconds=1)
    moment.advance(31.5)
    assert run.starts(1)[0] > 5


@pytest.mark.parametrize("facts", [None, {}, {"period": "hour"}, []])
def test_facts_without_a_known_period_are_refused(queue: Queue, moment: Moment, facts: object) -> None:
    """The gate learns nothing from them."""
    before = gate(queue)
    with refused("400", "bad_facts", "p_facts"):
        queue.call("report_rate_limit", p_model=MODEL, p_facts=facts, p_epoch=None)
    assert gate(queue) == before


def test_recovery_after_a_decrease(queue: Queue, moment: Moment) -> None:
    """Each quiet window gives a twentieth of the operator's rate back, until that is reached."""
    blocked = limited(queue, "unknown")["blockedForSeconds"]
    moment.advance(blocked + 0.5)
    rates = []
    for _ in range(7):
        moment.advance(59)
        rates.append(shown(queue)["rate"])
        moment.advance(1)
        GateRun(queue).take(1)
    assert rates == [42, 45, 48, 51, 54, 57, 60]
    told = shown(queue)
    assert (told["rate"], told["learnedRate"], told["learnedFrom"]) == (60, None, None)


def test_recovery_of_an_idle_gate(queue: Queue, moment: Moment) -> None:
    """Quiet windows count even if nobody calls, and none counts twice."""
    moment.advance(limited(queue, "unknown")["blockedForSeconds"] + 200.1)
    assert shown(queue)["rate"] == 51
    GateRun(queue).take(1)
    assert shown(queue)["rate"] == 51
    moment.advance(40)
    assert shown(queue)["rate"] == 54


def test_block_grows_only_without_quiet(queue: Queue, moment: Moment) -> None:
    """After a quiet window the block of the next unexplained 429 is a short one again."""
    for _ in range(5):
        limited(queue, "unknown")
    moment.advance(33 + 60)
    GateRun(queue).take(1)
    assert limited(queue, "unknown")["blockedForSeconds"] <= 2


def test_what_was_learned_is_a_row(queue: Queue, moment: Moment) -> None:
    """A learned rate survives every restart: a new connection and a new run see it."""
    limited(queue, "minute", limit=7, retryAfterSeconds=30)
    row = gate(queue)
    assert (row["learnedRate"], row["learnedFrom"]) == (7, "stated")
    assert datetime.fromisoformat(row["learnedAt"]) == moment.now
    assert datetime.fromisoformat(row["blockedUntil"]) == moment.now + timedelta(seconds=30)
    answer = queue.run().answer(p_run_seconds=20)
    assert (answer["reason"], answer["nextAttemptInSeconds"]) == ("rate_limited", 30)


def test_a_429_of_one_model_does_not_affect_another(queue: Queue, moment: Moment) -> None:
    """A 429 of one model says nothing of another's quota."""
    limited(queue, "day")
    assert GateRun(queue, model="another").starts(1) == [0]
