"""How the benchmark of deadlines counts: what was lost, and attempts for which nothing had been sent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.trials.spent import Images, images, unsent_attempts
from local.simulator.ledger import Call

CALL = Call(1, 10.0, "model", "", "", "A portrait [3-0]", 1, 100, "1:1")


@pytest.mark.parametrize(
    ("attempts", "claims", "calls", "unsent"),
    [
        (1, [9.0], [CALL], 0),
        (1, [9.0], [], 1),
        (0, [9.0], [], 0),
        (2, [1.0, 9.0], [CALL], 1),
        (2, [1.0, 9.0], [CALL, replace(CALL, started=2.0)], 0),
        (2, [1.0, 9.0], [CALL, replace(CALL, started=11.0)], 1),
        (1, [9.0], [replace(CALL, prompt_start="A portrait [4-0]")], 1),
    ],
)
def test_attempts_without_a_request(
    attempts: int, claims: list[float], calls: list[Call], unsent: int
) -> None:
    """An attempt needs a claim under which a request for this very job arrived; one claim pays for one."""
    jobs = {"[3-0]": 7, "[4-0]": 8}
    assert unsent_attempts({7: attempts}, {7: claims, 8: [1.0]}, jobs, calls, ()) == unsent


def test_what_an_earlier_claim_had_stored() -> None:
    """The claim that completes a job counts, even without a request of its own."""
    jobs, claims = {"[3-0]": 7}, {7: [1.0, 9.0, 12.0]}
    assert unsent_attempts({7: 2}, claims, jobs, [CALL], {7}) == 0
    assert unsent_attempts({7: 3}, claims, jobs, [CALL], {7}) == 1


def test_lost_images_were_paid_for_and_not_stored_or_given_up() -> None:
    """Anything else has a reason."""
    made = [replace(CALL, images=1, outcome="image")] * 3
    cut = [replace(CALL, images=1, outcome="cut"), replace(CALL, outcome="cut")]
    found = images([*made, *cut], kept=1, discarded=1, uploads_cut=1)
    assert found == Images(paid=4, kept=1, discarded=1, cut_in_flight=3)
    assert found.lost == 2
