"""Models are rows: announced ends, prices, when to warn; operators correct them, installing does not."""

from datetime import UTC, datetime
from typing import Any

import pytest

from local.stack.stack import SQL, Stack
from tests.support.queue_sql import Clock, Queue, refused

OLD, MIDDLE, NEW = "gemini-2.5-flash-image", "gemini-3.1-flash-image", "gemini-nano-banana-2.1"
ENDS = 'update generation.models set "announcedEnd" = %s where model = %s'
PHOTO = """
    insert into photo_generation_photos ("jobId", "batchId", "userId", "imageIndex", "storagePath",
      "mimeType", width, height, bytes, model, "createdAt")
    values (1, 'b', 'u', 0, 'u/b/1/0', 'image/png', 1, 1, 1, %s, %s)"""


@pytest.fixture
def seeded(stack: Stack, queue: Queue) -> Queue:
    """The rows of a fresh installation, announced ends included."""
    queue.connection.execute("truncate generation.models, generation.prices")
    stack.postgres.apply([SQL / "migrations" / "0004_initial_rows.sql"])
    return queue


def models(queue: Queue) -> dict[str, dict[str, Any]]:
    """The models by name."""
    return {row["model"]: row for row in queue.call("generation_models")["models"]}


def test_the_seed_has_a_price_a_source_and_a_date_for_every_model(seeded: Queue) -> None:
    """Five models with their prices; the earlier of Google's two dates for the default, and why."""
    known = models(seeded)
    prices = {model: row["dollars"] for model, row in known.items()}
    assert {model: dollars for model, dollars in prices.items() if dollars} == {
        OLD: 0.039, MIDDLE: 0.067, NEW: 0.0336, "gemini-3.1-flash-lite-image": 0.034,
        "gemini-3-pro-image": 0.134,
    }  # fmt: skip
    assert [known[model]["announcedEnd"] for model in (OLD, MIDDLE, NEW)] == [
        "2026-10-02",
        "2026-10-29",
        None,
    ]
    assert [known[model]["announcedSuccessor"] for model in (OLD, MIDDLE)] == [MIDDLE, NEW]
    assert all(row["source"] and row["asOf"] for row in known.values() if row["dollars"])
    assert "2027-03-15" in known[OLD]["source"]


def test_installing_again_keeps_what_an_operator_changed(stack: Stack, seeded: Queue) -> None:
    """A corrected date or price stays; a successor remembered earlier is kept, and its row completed."""
    seeded.connection.execute(ENDS, ["2030-01-01", OLD])
    seeded.connection.execute("update generation.prices set dollars = 0.5 where model = %s", [NEW])
    # As an installation from before these columns has it.
    seeded.connection.execute(
        'update generation.models set successor = %s, source = null, "announcedEnd" = null where model = %s',
        [NEW, MIDDLE],
    )
    stack.postgres.apply([SQL / "migrations" / "0004_initial_rows.sql"])
    known = models(seeded)
    assert (known[OLD]["announcedEnd"], known[NEW]["dollars"]) == ("2030-01-01", 0.5)
    assert (known[MIDDLE]["successor"], known[MIDDLE]["announcedEnd"]) == (NEW, "2026-10-29")


def test_a_price_alone_says_nothing_of_the_announcement(stack: Stack, seeded: Queue) -> None:
    """Setting a price keeps the source of the end date; a later version may still announce one."""
    before = models(seeded)[OLD]
    seeded.connection.execute("delete from generation.models where model = %s", [MIDDLE])
    for model in (OLD, MIDDLE):
        seeded.call("set_generation_model", p_model=model, p_facts={"dollars": 0.05, "source": "invoice"})
    after = models(seeded)[OLD]
    assert after["dollars"] == 0.05
    assert (after["source"], after["asOf"]) == (before["source"], before["asOf"])
    stack.postgres.apply([SQL / "migrations" / "0004_initial_rows.sql"])
    assert models(seeded)[MIDDLE]["announcedEnd"] == "2026-10-29"
    seeded.call("set_generation_model", p_model=OLD, p_facts={"announcedEnd": None, "source": "mail"})
    assert models(seeded)[OLD]["source"] == "mail"


@pytest.mark.parametrize(
    ("now", "warned"),
    [
        ("2026-08-02", None),
        ("2026-08-03", "in 60 days"),
        ("2026-10-02", "in 0 days"),
        ("2026-10-12", "10 days ago"),
    ],
)
def test_warnings_begin_sixty_days_before_the_end(
    seeded: Queue, clock: Clock, now: str, warned: str | None
) -> None:
    """By the database's clock: nothing at 61 days, words with the successor and both prices from 60 on."""
    clock.set(datetime.fromisoformat(f"{now}T12:00:00+00:00"))
    seeded.connection.execute(PHOTO, [OLD, clock.now])
    warnings = seeded.call("generation_queue_stats")["warnings"]
    if warned is None:
        assert warnings == []
    else:
        (one,) = warnings
        assert (one["about"], one["subject"]) == ("model", OLD)
        assert warned in one["words"] and "instead of $0.039" in one["words"]


def test_the_successor_in_a_warning_is_one_that_will_be_there(seeded: Queue, clock: Clock) -> None:
    """A successor whose own end has come by now is passed over, and so is one that answered 404."""
    clock.set(datetime(2026, 10, 1, tzinfo=UTC))
    assert models(seeded)[OLD]["expectedSuccessor"] == MIDDLE
    clock.set(datetime(2026, 10, 30, tzinfo=UTC))
    assert models(seeded)[OLD]["expectedSuccessor"] == NEW
    clock.set(datetime(2026, 10, 1, tzinfo=UTC))
    seeded.call("retire_generation_model", p_model=MIDDLE)
    assert models(seeded)[OLD]["expectedSuccessor"] == NEW


def test_only_models_in_use_are_warned_of(seeded: Queue, clock: Clock) -> None:
    """A model is in use if it has photos or starts within a week; after that there is no warning."""
    clock.set(datetime(2026, 11, 1, tzinfo=UTC))
    assert seeded.call("generation_queue_stats")["warnings"] == []
    seeded.connection.execute(
        'update generation.gates set "startedToday" = 3, today = %s where model = %s', ["2026-10-31", OLD]
    )
    assert [one["subject"] for one in seeded.call("generation_queue_stats")["warnings"]] == [OLD]
    clock.set(datetime(2026, 11, 9, tzinfo=UTC))
    assert seeded.call("generation_queue_stats")["warnings"] == []


def test_a_claim_tells_the_whole_chain(queue: Queue) -> None:
    """Later runs learn every model that was changed over to, and claim at the pace of the last one's gate."""
    for model in (OLD, MIDDLE):
        queue.call("retire_generation_model", p_model=model)
    queue.call("set_generation_rate", p_model=NEW, p_rate=1)
    queue.enqueue(examples=3)
    answer = queue.call(
        "claim_generation_jobs", p_run_id="00000000-0000-0000-0000-000000000001", p_worker_id="w",
        p_claim_id="00000000-0000-0000-0000-000000000002", p_max_jobs=10, p_run_seconds=60, p_model=OLD,
    )  # fmt: skip
    assert (answer["successors"], answer["successor"]) == ([MIDDLE, NEW], NEW)
    assert len(answer["jobs"]) == 1


def test_retiring_says_where_to_go_on_or_why_nowhere(queue: Queue) -> None:
    """The operator's word goes before the announced successor; a chain's end and a circle change nothing."""
    assert queue.call("retire_generation_model", p_model=OLD, p_successor=NEW)["successor"] == NEW
    assert queue.call("retire_generation_model", p_model=OLD)["successor"] == NEW
    end = queue.call("retire_generation_model", p_model=NEW)
    assert (end["successor"], end["reason"]) == (None, "no_successor")
    queue.call("set_generation_model", p_model=NEW, p_facts={"announcedSuccessor": OLD})
    circle = queue.call("retire_generation_model", p_model=NEW)
    assert (circle["successor"], circle["reason"]) == (None, "cycle")
    assert models(queue)[NEW]["retiredSince"] is None


def test_a_model_that_is_back_is_used_again(queue: Queue) -> None:
    """A 404 is forgotten if the operator says so; or another successor is used if it is corrected."""
    queue.call("retire_generation_model", p_model=OLD)
    assert models(queue)[OLD]["retiredSince"]
    queue.call("set_generation_model", p_model=OLD, p_facts={"announcedSuccessor": NEW})
    assert models(queue)[OLD]["successor"] == NEW
    queue.call("set_generation_model", p_model=OLD, p_facts={"available": True})
    assert models(queue)[OLD]["retiredSince"] is None


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"dollars": "many"}, "out_of_range"),
        ({"dollars": -1}, "out_of_range"),
        ({"announcedEnd": "soon"}, "out_of_range"),
        ({"announcedEnd": "2027-02-30"}, "out_of_range"),
        ({"announcedSuccessor": OLD}, "bad_model"),
        ({"ends": "2027-01-01"}, "unknown_field"),
        (["dollars"], "wrong_type"),
    ],
)
def test_facts_that_cannot_be_are_refused(queue: Queue, facts: object, reason: str) -> None:
    """An invalid fact is reported and changes nothing."""
    before = models(queue)
    with refused("400", reason):
        queue.call("set_generation_model", p_model=OLD, p_facts=facts)
    assert models(queue) == before
