"""What an operator allows (rate, daily caps, pause), and what gate and claims answer meanwhile."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.gate_sql import (
    MODEL,
    GateRun,
    Moment,
    allow,
    caps,
    gate,
    limited,
    refusal,
    shown,
    still_time_as_installed,
    take,
)
from tests.support.queue_sql import Queue, blocked, refused

MIDNIGHT = datetime(2026, 5, 5, 7, tzinfo=UTC)  # of California, after the noon at which time stands still
CHEAP, DEAR = "gemini-2.5-flash-image", "gemini-3.1-flash-image"  # $0.039 and $0.067 an image


@pytest.fixture
def moment(queue: Queue) -> Iterator[Moment]:
    """A time that a test moves, noon at first; three runs at once, as installed."""
    with still_time_as_installed(queue) as moment:
        yield moment


def test_the_daily_image_cap_limits_starts_until_midnight_pacific(queue: Queue, moment: Moment) -> None:
    """No more starts are given than it leaves."""
    queue.enqueue()
    caps(queue, imagesPerDay=7)
    assert len(GateRun(queue).starts(5)) == 5
    assert len(GateRun(queue).starts(5)) == 2
    seconds = (MIDNIGHT - moment.now).total_seconds()
    answer = GateRun(queue).take(5)
    assert (answer["slots"], answer["reason"], answer["nextInSeconds"]) == ([], "daily_cap", seconds)
    queue.connection.execute("""update generation.runs set "finishedAt" = "endsBy" """)
    assert refusal(queue.run().answer()) == ("daily_cap", seconds)
    moment.set(MIDNIGHT)
    assert len(queue.run().claim()) == 1
    assert len(GateRun(queue).starts(50)) == 7


def test_the_spend_cap_adds_up_all_models_at_their_prices(queue: Queue, moment: Moment) -> None:
    """Each image counts at its model's price."""
    for model in (CHEAP, DEAR):
        allow(queue, 1000, model=model)
    caps(queue, dollarsPerDay=0.5)
    assert len(GateRun(queue, model=CHEAP).starts(10)) == 10  # $0.39; $0.11 are left
    assert len(GateRun(queue, model=DEAR).starts(10)) == 1
    assert len(GateRun(queue, model=CHEAP).starts(10)) == 1
    for model in (CHEAP, DEAR):
        assert GateRun(queue, model=model).take(1)["reason"] == "daily_cap"
    assert queue.call("generation_gate")["spentToday"] == pytest.approx(0.496)


def test_a_model_without_a_price_counts_as_the_most_expensive(queue: Queue, moment: Moment) -> None:
    """Without any price, only images are counted."""
    caps(queue, dollarsPerDay=0.3)
    assert len(GateRun(queue).starts(5)) == 2
    queue.connection.execute("delete from generation.prices")
    assert len(GateRun(queue).starts(5)) == 5


def test_cap_over_two_models(queue: Queue, moment: Moment) -> None:
    """The cap of images is one for all models; yesterday's of another model do not count."""
    caps(queue, imagesPerDay=8)
    assert len(GateRun(queue, model="other").starts(5)) == 5
    assert len(GateRun(queue).starts(5)) == 3
    moment.set(MIDNIGHT + timedelta(seconds=1))
    assert len(GateRun(queue).starts(10)) == 8


def test_cap_over_two_models_at_once(queue: Queue, another: Callable[[], Queue], moment: Moment) -> None:
    """Two runs at different gates together get no more than the cap: the second waits for the first."""
    caps(queue, imagesPerDay=5)
    second, watcher = GateRun(queue, model="other"), another()
    GateRun(queue)
    queue.connection.execute("begin")
    assert len(GateRun(queue).starts(5)) == 5
    with blocked(another(), lambda other: take(other, second.id, 5, "other"), watcher) as theirs:
        queue.connection.execute("commit")
        assert theirs.result()["reason"] == "daily_cap"


def test_a_cap_of_zero_stops_all_starts_and_null_removes_it(queue: Queue, moment: Moment) -> None:
    """Values that are not named stay."""
    queue.enqueue()
    told = caps(queue, imagesPerDay=0, dollarsPerDay=12.5)
    assert (told["imagesPerDay"], told["dollarsPerDay"], told["maxRuns"]) == (0, 12.5, 3)
    assert queue.run().answer()["reason"] == "daily_cap"
    told = caps(queue, imagesPerDay=None, maxAgeHours=24)
    assert (told["imagesPerDay"], told["dollarsPerDay"], told["maxAgeHours"]) == (None, 12.5, 24)
    assert caps(queue, dollarsPerDay=None)["dollarsPerDay"] is None
    assert len(queue.run().claim()) == 1


@pytest.mark.parametrize(
    ("limits", "reason", "field"),
    [
        ([], "wrong_type", "p_limits"),
        (None, "wrong_type", "p_limits"),
        ({"imagesPerHour": 5}, "unknown_field", "imagesPerHour"),
        ({"imagesPerDay": -1}, "out_of_range", "imagesPerDay"),
        ({"imagesPerDay": "5"}, "wrong_type", "imagesPerDay"),
        ({"imagesPerDay": 1.5}, "wrong_type", "imagesPerDay"),
        ({"dollarsPerDay": -0.01}, "out_of_range", "dollarsPerDay"),
        ({"dollarsPerDay": "much"}, "out_of_range", "dollarsPerDay"),
        ({"maxRuns": 0}, "out_of_range", "maxRuns"),
        ({"maxAgeHours": 0}, "out_of_range", "maxAgeHours"),
    ],
)
def test_an_invalid_cap_is_refused_by_name_and_changes_nothing(
    queue: Queue, moment: Moment, limits: object, reason: str, field: str
) -> None:
    """The message names the field."""
    before = queue.call("generation_gate")
    with refused("400", reason, field):
        queue.call("set_generation_limits", p_limits=limits)
    assert queue.call("generation_gate") == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("p_rate", 0),
        ("p_rate", 0.5),
        ("p_rate", 100_001),
        ("p_burst", -1),
        ("p_burst", 1001),
        ("p_window_seconds", 0),
        ("p_grace_seconds", 0),
    ],
)
def test_an_invalid_rate_burst_window_or_grace_is_refused_by_name(
    queue: Queue, moment: Moment, name: str, value: float
) -> None:
    """Nothing changes."""
    before = gate(queue)
    with refused("400", "out_of_range", name.split("_")[1]):
        queue.call("set_generation_rate", p_model=MODEL, **{name: value})
    assert gate(queue) == before


def test_a_new_rate_voids_older_starts_and_forgets_what_was_learned(queue: Queue, moment: Moment) -> None:
    """The new rate applies from the next start."""
    epoch = GateRun(queue).take(100)["epoch"]
    limited(queue, "minute", limit=5, retryAfterSeconds=500)
    allow(queue, 30, 2)
    told = shown(queue)
    assert (told["rate"], told["allowed"], told["burst"], told["learnedRate"]) == (30, 30, 2, None)
    assert (told["epoch"], told["blockedForSeconds"]) == (epoch + 2, 0)
    moment.advance(10)
    assert GateRun(queue).starts(1)[0] <= 2 * 61 / 30
    queue.call("set_generation_rate", p_model=MODEL, p_burst=1)
    assert (shown(queue)["rate"], shown(queue)["burst"]) == (30, 1)
    queue.call("set_generation_rate", p_model=MODEL, p_rate=8, p_burst=0)
    assert shown(queue)["burst"] == 4


def test_pause_and_resume(queue: Queue, moment: Moment) -> None:
    """A pause stops starts and claims, and voids starts already given out; resume ends it."""
    queue.enqueue()
    epoch = GateRun(queue).take(1)["epoch"]
    told = queue.call("pause_generation", p_reason="too dear")
    assert (told["pauseReason"], told["gates"][-1]["epoch"]) == ("too dear", epoch + 1)
    assert queue.call("pause_generation", p_reason="again") == told
    answer = GateRun(queue).take(1)
    assert (answer["slots"], answer["reason"], answer["nextInSeconds"]) == ([], "paused", None)
    assert answer["epoch"] == epoch + 1
    queue.connection.execute("""update generation.runs set "finishedAt" = "endsBy" """)
    assert refusal(queue.run().answer()) == ("paused", None)
    assert queue.call("resume_generation")["pausedAt"] is None
    assert len(queue.run().claim()) == 1


@pytest.mark.parametrize(
    ("reason", "code"), [("red \x1b[31m alert", "control_characters"), ("x" * 1001, "too_long")]
)
def test_a_reason_that_no_terminal_should_print_is_refused(queue: Queue, reason: str, code: str) -> None:
    """Others read the reason in their terminals, so it is checked as a prompt is; nothing is paused then."""
    with refused("400", code, "reason"):
        queue.call("pause_generation", p_reason=reason)
    assert queue.call("generation_gate")["pausedAt"] is None


def test_a_blank_reason_is_none(queue: Queue) -> None:
    assert queue.call("pause_generation", p_reason=" \n")["pauseReason"] is None


def test_resume_ends_a_daily_block(queue: Queue, moment: Moment) -> None:
    """Resume also ends a block until midnight and makes jobs that wait for it due; retries still wait."""
    waiting, retried = queue.claimed(), queue.claimed()
    queue.settle(waiting, "rate_limited", untilDailyReset=True)
    queue.settle(retried, "retry", retryInSeconds=600)
    limited(queue, "day")
    assert refusal(queue.run().answer()) == ("rate_limited", (MIDNIGHT - moment.now).total_seconds())
    epoch = shown(queue)["epoch"]
    queue.call("resume_generation")
    assert (shown(queue)["blockedForSeconds"], shown(queue)["epoch"]) == (0, epoch + 1)
    assert queue.job(waiting["id"])["retryAt"] == moment.now
    queue.connection.execute("""update generation.runs set "finishedAt" = "endsBy" """)
    assert [job["id"] for job in queue.run().claim()] == [waiting["id"]]


def test_setting_a_rate_opens_a_gate_far_ahead(queue: Queue, moment: Moment) -> None:
    """More starts than a rate that was learned allows close the gate; a higher one that is set opens it."""
    allow(queue, 1000, burst=1000)
    run = GateRun(queue)
    assert len(take(queue, run.id, 30)["slots"]) == 30
    limited(queue, "minute", limit=10, retryAfterSeconds=0)
    assert take(queue, run.id, 5)["nextInSeconds"] > 60
    allow(queue, 1000, burst=1)
    assert take(queue, run.id, 1)["nextInSeconds"] <= 11


def finished(queue: Queue, model: str, answered: dict[str, object], made: int = 0) -> None:
    """Ends a run that asked `model`, twice; of the images `made`, `answered` counts those of others."""
    run = queue.run()
    others = [{"model": other, "images": images} for other, images in answered.items()]
    summary = {"model": model, "images": {"made": made}, **({"answeredBy": others} if others else {})}
    queue.call("finish_generation_run", p_run_id=run.id, p_worker_id="w", p_summary=summary)
    queue.call("finish_generation_run", p_run_id=run.id, p_worker_id="w", p_summary=summary)


def test_the_spend_cap_takes_the_price_of_the_model_that_answered(queue: Queue, moment: Moment) -> None:
    """Images of a more expensive model count at its price once their run has ended, however often it ends."""
    allow(queue, 1000, model=CHEAP)
    caps(queue, dollarsPerDay=0.5)
    assert len(GateRun(queue, model=CHEAP).starts(7)) == 7
    finished(queue, CHEAP, {DEAR: 6})
    assert (gate(queue, CHEAP)["startedToday"], gate(queue, DEAR)["startedToday"]) == (1, 6)
    assert queue.call("generation_gate")["spentToday"] == pytest.approx(7 * 0.067)
    assert len(GateRun(queue, model=CHEAP).starts(10)) == 0  # $0.469 are gone: not one more at $0.067
    caps(queue, dollarsPerDay=0.55)
    assert len(GateRun(queue, model=CHEAP).starts(10)) == 1


def test_a_model_gives_up_no_more_starts_than_it_has_counted(queue: Queue, moment: Moment) -> None:
    """A run that ends after midnight, or reports nonsense, makes no count negative and causes no error."""
    allow(queue, 1000, model=CHEAP)
    caps(queue, imagesPerDay=100)
    assert len(GateRun(queue, model=CHEAP).starts(5)) == 5
    finished(queue, CHEAP, {DEAR: 3, "other": 9, "third": 1, "fourth": "x", "bad name": 2})
    counts = {row["model"]: row["startedToday"] for row in queue.call("generation_gate")["gates"]}
    assert {model: count for model, count in counts.items() if count} == {DEAR: 3, "other": 2}
    assert (counts[CHEAP], "fourth" in counts, "bad name" in counts) == (0, False, False)
    moment.set(MIDNIGHT + timedelta(seconds=1))
    finished(queue, CHEAP, {DEAR: 3})
    assert (shown(queue, CHEAP)["startedToday"], shown(queue, DEAR)["startedToday"]) == (0, 0)


def test_a_model_that_answers_again_has_its_own_price_again(queue: Queue, moment: Moment) -> None:
    """Starts cost what most images of the last run cost; a run that made none changes nothing."""
    allow(queue, 1000, model=CHEAP)
    finished(queue, CHEAP, {DEAR: 2}, made=3)
    assert len(GateRun(queue, model=CHEAP).starts(1)) == 1
    assert shown(queue, CHEAP)["dollarsToday"] == pytest.approx(0.067)
    finished(queue, CHEAP, {}, made=0)
    assert shown(queue, CHEAP)["dollarsToday"] == pytest.approx(0.067)
    finished(queue, CHEAP, {DEAR: 1}, made=3)
    assert shown(queue, CHEAP)["dollarsToday"] == pytest.approx(0.0)  # its one start was the other's
    assert len(GateRun(queue, model=CHEAP).starts(1)) == 1
    assert shown(queue, CHEAP)["dollarsToday"] == pytest.approx(0.039)
    finished(queue, CHEAP, {DEAR: 1}, made=1)
    finished(queue, CHEAP, {}, made=1)
    assert len(GateRun(queue, model=CHEAP).starts(1)) == 1
    assert shown(queue, CHEAP)["dollarsToday"] == pytest.approx(0.039)
