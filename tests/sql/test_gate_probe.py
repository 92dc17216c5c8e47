"""The probe: how a gate finds out that a quota stated by Gemini has risen, at one 429 an hour."""

from collections.abc import Iterator
from datetime import datetime
from typing import cast

import pytest

from tests.support.gate_sql import MODEL, GateRun, Moment, allow, caps, limited, shown, still_time
from tests.support.queue_sql import Queue

HOUR = 3600


@pytest.fixture
def moment(queue: Queue) -> Iterator[Moment]:
    """A time that a test moves; Gemini has stated 30 a minute where 60 are allowed."""
    with still_time(queue.connection) as moment:
        allow(queue, 60)
        limited(queue, "minute", limit=30, retryAfterSeconds=0)
        yield moment


def work(queue: Queue, moment: Moment, seconds: int) -> list[float]:
    """Takes every start there is for so long; when they were, in seconds from now."""
    starts: list[float] = []
    for second in range(0, seconds, 5):
        starts += [second + start for start in GateRun(queue).starts(50)]
        moment.advance(5)
    return starts


def busiest(starts: list[float]) -> int:
    """The most starts in any window."""
    return max(sum(1 for other in starts if start <= other < start + 60) for start in starts)


def next_start(queue: Queue) -> datetime:
    """When the next start is due."""
    found = queue.one(
        """select generation.next_start(g, generation.moment()) as at
        from generation.gates as g where g.model = %s""",
        [MODEL],
    )
    return cast(datetime, found["at"])


def probed_after(queue: Queue, moment: Moment, seconds: int, rate: int = 30) -> int:
    """The most starts in a window once so many seconds and five more are over; until then `rate`.

    There is work in the first and the last two minutes, which is what a probe can depend on.
    """
    before: list[float] = []
    if seconds > 4 * 60:
        before = work(queue, moment, 2 * 60)
        rest = seconds - 4 * 60
        moment.advance(rest)
        before += [2 * 60 + rest + start for start in work(queue, moment, 2 * 60)]
    else:
        before = work(queue, moment, seconds)
    assert busiest(before) <= rate
    return busiest(before + [seconds + start for start in work(queue, moment, 5)])


def test_one_start_an_hour(queue: Queue, moment: Moment) -> None:
    """After an hour without a 429 a busy gate gives one start beyond the stated value, and no other."""
    moment.advance(HOUR - 70)
    assert probed_after(queue, moment, 70) == 31


def test_quota_that_has_risen(queue: Queue, moment: Moment) -> None:
    """A probe without a 429 within a horizon proves the value old: twice the rate is in force."""
    moment.advance(HOUR)
    work(queue, moment, 65)
    assert (shown(queue)["rate"], shown(queue)["learnedFrom"]) == (30, "stated")
    work(queue, moment, 10)
    told = shown(queue)
    assert (told["rate"], told["learnedRate"], told["learnedFrom"]) == (60, None, None)
    assert busiest(work(queue, moment, 120)) == 60


def test_quota_that_has_risen_far(queue: Queue, moment: Moment) -> None:
    """The rate doubles once a window has been filled at the last one, up to what the operator allows."""
    allow(queue, 100)
    limited(queue, "minute", limit=10, retryAfterSeconds=0)
    moment.advance(HOUR)
    rates = []
    for _ in range(5):
        work(queue, moment, 80)
        rates.append(shown(queue)["rate"])
    assert rates == [20, 40, 80, 100, 100]


def test_doubling_that_is_too_much(queue: Queue, moment: Moment) -> None:
    """A limit stated after the rate has doubled is learned, and probed an hour later."""
    moment.advance(HOUR)
    work(queue, moment, 75)
    assert limited(queue, "minute", limit=45, retryAfterSeconds=0)["rate"] == 45
    assert probed_after(queue, moment, HOUR, 45) == 46


def test_quota_that_has_not(queue: Queue, moment: Moment) -> None:
    """The 429 of a probe leaves the stated value, costs one interval, and ends probing for an hour."""
    moment.advance(HOUR)
    work(queue, moment, 65)
    epoch, due = shown(queue)["epoch"], next_start(queue)
    answer = limited(queue, "minute", epoch, limit=30, retryAfterSeconds=40)
    assert answer == {"epoch": epoch, "rate": 30, "blockedForSeconds": 0}
    assert (next_start(queue) - due).total_seconds() == pytest.approx(61 / 30, abs=1e-5)
    moment.advance(60)
    assert probed_after(queue, moment, HOUR - 60) == 31


def test_quota_that_has_risen_in_part(queue: Queue, moment: Moment) -> None:
    """A probe that meets another limit teaches that one."""
    moment.advance(HOUR)
    work(queue, moment, 65)
    assert limited(queue, "minute", limit=45, retryAfterSeconds=0)["rate"] == 45


def test_idle_gate_does_not_probe(queue: Queue, moment: Moment) -> None:
    """If the last window was not full, an additional start would prove nothing."""
    moment.advance(HOUR)
    for _ in range(20):
        assert len(GateRun(queue).starts(50)) <= 6
        moment.advance(30)
    assert shown(queue)["rate"] == 30


@pytest.mark.parametrize(("stated", "extra"), [(10, 1), (30, 1), (60, 1), (61, 2), (120, 2), (600, 13)])
def test_as_many_as_it_takes(queue: Queue, moment: Moment, stated: int, extra: int) -> None:
    """A probe is as many starts as exceed the stated value, which the even pace stays below."""
    allow(queue, 2000)
    limited(queue, "minute", limit=stated, retryAfterSeconds=0)
    moment.advance(HOUR)
    starts = work(queue, moment, 100)
    at_once = max(starts.count(start) for start in starts)
    assert at_once in (extra, extra + 1)
    assert stated + 1 <= busiest([start for start in starts if start <= 70]) <= stated * 1.005 + 1


def test_probes_count_for_the_daily_cap(queue: Queue, moment: Moment) -> None:
    """A probe is a start like any other where images are counted."""
    moment.advance(HOUR)
    starts = work(queue, moment, 65)
    assert shown(queue)["startedToday"] == len(starts)
    caps(queue, imagesPerDay=len(starts))
    assert GateRun(queue).take(5)["reason"] == "daily_cap"
