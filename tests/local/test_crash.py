"""`python -m bench crash` in little: real workers die at random moments, nothing is lost; its arithmetic."""

from dataclasses import replace

import pytest

from bench.crash import crash
from bench.storm.messages import phase_of
from bench.storm.payments import Payments, payments
from bench.storm.storm import Plan
from local.simulator.ledger import Call

CALL = Call(
    sequence=1, started=1.0, model="m", key="k", prompt_sha="p", prompt_start="[a 1]", photos=1, bytes_in=1,
    aspect_ratio="1:1", ended=2.0, outcome="image", admitted=True, images=1, image_shas=("one",),
)  # fmt: skip
CUT = replace(CALL, outcome="cut", ended=3.1)
MADE = {"message": "image_made", "adopted": False}
ADOPTED = {"message": "image_made", "adopted": True}
DISCARDED = {"message": "image_discarded"}
ERRED = {"message": "image_erred", "paid": True}
TOLD_OTHERWISE = {"message": "image_erred", "paid": False}


@pytest.mark.slow
def test_nothing_is_lost_when_workers_die() -> None:
    """Killed at twenty moments, workers lose no job, record no image twice, and poison fails alone."""
    plan = Plan(kills=20, seats=4, every_seconds=0.8, poisons=1, outages=1, leases_by_hand=True)
    found = crash(plan, seed=7, tell=print)
    assert not found.broken, "\n".join(found.broken)
    assert (found.lost, found.doubled, found.poisoned) == (0, 0, 1)
    assert found.kills.total() >= plan.kills
    assert found.paid_and_lost <= found.in_flight_at_kill
    assert found.jobs["completed"], "the storm let nobody work"
    assert len({phase for phase, _ in found.kills}) >= 4, found.kills


@pytest.mark.parametrize(
    ("calls", "killed_at", "events", "recorded", "cancelled", "expected"),
    [
        ([CALL], None, [MADE], {"one"}, set(), Payments()),
        ([CALL], None, [], set(), set(), Payments(lost=1)),
        ([CALL], 3.0, [MADE], set(), set(), Payments(lost=1)),
        ([CALL], 3.0, [], set(), set(), Payments(in_flight=1, lost=1)),
        ([CALL], 3.0, [ADOPTED, TOLD_OTHERWISE], {"one"}, set(), Payments(in_flight=1)),
        ([CALL], 1.5, [], {"one"}, set(), Payments(in_flight=1)),
        ([CALL], None, [DISCARDED], set(), {1}, Payments(discarded=1)),
        ([CALL], None, [ERRED], set(), set(), Payments(not_stored=1)),
        ([CALL, replace(CALL, sequence=2, image_shas=("two",))], None, [ERRED], set(), set(),
         Payments(not_stored=1, lost=1)),
        ([CUT], 3.0, [], set(), set(), Payments(in_flight=1, lost=1)),
        ([CUT], 4.0, [], set(), set(), Payments(cut=1)),
        ([replace(CUT, images=0, image_shas=())], 3.0, [], set(), set(), Payments(in_flight=1)),
        ([replace(CALL, outcome="5xx", images=0, image_shas=())], 3.0, [], set(), set(), Payments()),
        ([replace(CALL, outcome="429", admitted=False, images=0, image_shas=())], 1.5, [], set(), set(),
         Payments()),
        ([replace(CALL, started=3.1, ended=None, outcome="open", images=0, image_shas=())], 3.0, [], set(),
         set(), Payments(in_flight=1)),
    ],
    ids=[
        "kept", "lost by a living worker", "told and lost", "delivered and lost", "delivered and adopted",
        "open and kept", "cancelled", "not stored", "one of two not stored", "cut by the kill",
        "cut before the kill", "cut before it was made", "failed", "over quota", "on its way",
    ],
)  # fmt: skip
def test_only_images_in_flight_at_a_kill_may_be_lost(
    calls: list[Call],
    killed_at: float | None,
    events: list[dict[str, object]],
    recorded: set[str],
    cancelled: set[int],
    expected: Payments,
) -> None:
    """That is: a request was pending, or the worker had the image and had not reported it as stored."""
    assert payments(calls, killed_at, events, recorded, cancelled) == expected


@pytest.mark.parametrize(
    ("line", "body", "phase"),
    [
        ("POST /rest/v1/rpc/claim_generation_jobs", "{}", "claiming"),
        ("POST /rest/v1/rpc/settle_generation_jobs", '[{"outcome": "retry"}]', "settling"),
        ("POST /rest/v1/rpc/settle_generation_jobs", '[{"outcome":"completed"}]', "rolling up"),
        ("POST /storage/v1/object/generated-photos/u/b/1/0-ff", "", "uploading"),
        ("POST /storage/v1/object/list/generated-photos", "{}", "looking for objects"),
        ("GET /storage/v1/object/info/generated-photos/u/b/1/0-ff", "", "looking for objects"),
        ("DELETE /storage/v1/object/generated-photos", "{}", "removing"),
        ("GET /storage/v1/object/authenticated/training-photos/u/me.jpg", "", "fetching photos"),
    ],
)
def test_a_request_tells_the_workers_phase(line: str, body: str, phase: str) -> None:
    """The audit reads from it what a worker was doing when it was killed."""
    assert phase_of(f"{line} HTTP/1.1\r\nhost: x\r\n\r\n{body}".encode()) == phase
