"""`check` on the gate: a pause, a used-up cap and a long block are warnings, each with its fix."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.command_line import CommandLine
from tests.support.runs import MODEL, Site
from worker.ops.check_rate_limit import gate_finding

GATE: dict[str, Any] = {
    "pausedAt": None, "pauseReason": None, "dollarsPerDay": 20, "spentToday": 19.97, "imagesPerDay": None,
    "startedToday": 512, "gates": [],
}  # fmt: skip
OPEN = {"model": MODEL, "closedBy": None, "blockedForSeconds": 0.0}
MINUTE = OPEN | {"closedBy": "rate_limited", "blockedForSeconds": 55.0}
DAY = OPEN | {"closedBy": "rate_limited", "blockedForSeconds": 18_000.0}
CAPPED = OPEN | {"closedBy": "daily_cap"}
ELSEWHERE = DAY | {"model": "another"}


@pytest.mark.parametrize("gates", [[], [OPEN], [MINUTE], [OPEN, ELSEWHERE]])
def test_an_open_or_missing_gate_is_no_finding(gates: list[dict[str, object]]) -> None:
    """A block of minutes and another model's gate are no findings either."""
    found = gate_finding(GATE | {"gates": gates}, {MODEL})
    assert (found.state, found.fix) == ("ok", None)


def test_each_hold_has_its_fix() -> None:
    """Check names what holds the jobs, its numbers, and how to end it."""
    capped = gate_finding(GATE | {"gates": [CAPPED]}, {MODEL})
    assert capped.state == "warning" and "$19.97 of $20.00" in capped.message
    assert str(capped.fix).endswith("gate set --dollars-per-day N")
    both = gate_finding(GATE | {"gates": [CAPPED], "imagesPerDay": 512}, {MODEL})
    assert "512 of 512 images" in both.message
    assert str(both.fix).endswith("--dollars-per-day N or --images-per-day N")
    blocked = gate_finding(GATE | {"gates": [DAY]}, {MODEL})
    assert blocked.state == "warning" and "for another 5 h 0 min" in blocked.message
    assert str(blocked.fix).endswith("gate resume")


async def test_a_pause_is_reported_with_its_reason_and_exits_with_0(cli: CommandLine, site: Site) -> None:
    """The worker itself works."""
    await cli.call("gate", "pause", "the bill looks odd")
    shown = await cli.call("check")
    assert shown.code == 0 and "(the bill looks odd): no image starts" in shown.out
    assert "fix: python -m worker gate resume" in shown.out
    assert shown.out.endswith("The worker can work, but no image can start now: see gate.\n")
    await cli.call("gate", "resume")
    assert (await cli.call("check")).out.endswith("The worker can work.\n")
