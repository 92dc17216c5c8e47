"""The gate's gateway: what a run asks the database, in the database's own words."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from worker.errors import QueueUnavailable, QuotaFacts
from worker.gate import DatabaseGate
from worker.slots import LimitAnswer, SlotAnswer

RUN = UUID("00000000-0000-0000-0000-000000000001")


class HandDatabase:
    """A database that gives one answer, and remembers what it was asked."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any], float]] = []

    async def operate(
        self, function: str, params: Mapping[str, Any], timeout_seconds: float = 30.0, tries: int = 4
    ) -> dict[str, Any]:
        assert tries == 1, "an answer that is lost must not be asked for again"
        self.asked.append((function, dict(params), timeout_seconds))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def gate(database: HandDatabase) -> DatabaseGate:
    """The gate of a run that lasts 12 s more."""
    return DatabaseGate(database, RUN, "model", lambda: 12.0)


ANSWER = {
    "slots": [0, 1.016667],
    "graceSeconds": 1,
    "horizonSeconds": 10,
    "epoch": 4,
    "reason": None,
    "nextInSeconds": 2.033,
}


@pytest.mark.parametrize(("wanted", "asked"), [(-1, 1), (0, 1), (7, 7), (1000, 1000), (5000, 1000)])
async def test_take(wanted: int, asked: int) -> None:
    """A question names run, model and time, asks for as many as the database gives, and is bounded."""
    database = HandDatabase(ANSWER)
    answer = await gate(database).take(wanted, 3.5)
    assert answer == SlotAnswer((0, 1.016667), 1, 10, 4, None, 2.033)
    params = {"p_run_id": str(RUN), "p_model": "model", "p_slots": asked, "p_within_seconds": 3.5}
    assert database.asked == [("take_start_slots", params, 12.0)]


async def test_report() -> None:
    """A 429 is told with its facts and the epoch it belongs to."""
    database = HandDatabase({"epoch": 5, "rate": 10, "blockedForSeconds": 21.5})
    answer = await gate(database).report(QuotaFacts("minute", 21.5, 10, "PerMinute"), 4)
    assert answer == LimitAnswer(5, 21.5)
    facts = {"period": "minute", "retryAfterSeconds": 21.5, "limit": 10}
    params = {"p_model": "model", "p_facts": facts, "p_epoch": 4}
    assert database.asked == [("report_rate_limit", params, 12.0)]


async def test_asked_once() -> None:
    """A question without an answer is not repeated: the starts it may have had are gone."""
    database = HandDatabase(QueueUnavailable("no_answer", "Supabase did not answer."))
    with pytest.raises(QueueUnavailable):
        await gate(database).take(1, 3.5)
    assert len(database.asked) == 1
