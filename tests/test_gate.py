"""The gate's gateway: what a run asks the database, in the database's own words."""

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from worker.budget import Budget
from worker.errors import QueueUnavailable, QuotaFacts
from worker.gate import DatabaseGate
from worker.slots import LimitAnswer, SlotAnswer
from worker.tries import Within

RUN = UUID("00000000-0000-0000-0000-000000000001")


class HandDatabase:
    """A database that gives one answer, or none for ever, and remembers what it was asked."""

    def __init__(self, answer: dict[str, Any] | Exception | None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.begun = asyncio.Event()

    async def operate(
        self, function: str, params: Mapping[str, Any], within: Within = 30.0, tries: int = 4
    ) -> dict[str, Any]:
        assert tries == 1, "an answer that is lost must not be asked for again"
        assert not isinstance(within, float), "a question without a bound may outlive its run"
        self.asked.append((function, dict(params)))
        async with within:
            self.begun.set()
            if self.answer is None:
                await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        assert self.answer is not None
        return self.answer


def gate(database: HandDatabase, budget: Budget | None = None) -> DatabaseGate:
    """The gate of a run that lasts a minute, unless another budget is given."""
    return DatabaseGate(database, RUN, "model", budget or Budget(60, 6, asyncio.get_running_loop().time))


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
    assert database.asked == [("take_start_slots", params)]


async def test_report() -> None:
    """A 429 is told with its facts and the epoch it belongs to."""
    database = HandDatabase({"epoch": 5, "rate": 10, "blockedForSeconds": 21.5})
    answer = await gate(database).report(QuotaFacts("minute", 21.5, 10, "PerMinute"), 4)
    assert answer == LimitAnswer(5, 21.5)
    facts = {"period": "minute", "retryAfterSeconds": 21.5, "limit": 10}
    params = {"p_model": "model", "p_facts": facts, "p_epoch": 4}
    assert database.asked == [("report_rate_limit", params)]


@pytest.mark.parametrize("question", ["take", "report"])
async def test_a_stopped_run_waits_for_no_gate(question: str) -> None:
    """A question that has no answer when the run is stopped is given up by the deadlines drawn nearer."""
    database = HandDatabase(None)
    budget = Budget(60, 6, asyncio.get_running_loop().time)
    asked = gate(database, budget)
    facts = QuotaFacts("minute", 21.5, 10, "PerMinute")
    waiting = asyncio.create_task(asked.take(1, 3.5) if question == "take" else asked.report(facts, 4))
    await database.begun.wait()
    budget.shorten(0.2)
    done, _ = await asyncio.wait([waiting], timeout=30)
    assert done
    assert isinstance(waiting.exception(), TimeoutError)


async def test_asked_once() -> None:
    """A question without an answer is not repeated: the starts it may have had are gone."""
    database = HandDatabase(QueueUnavailable("no_answer", "Supabase did not answer."))
    with pytest.raises(QueueUnavailable):
        await gate(database).take(1, 3.5)
    assert len(database.asked) == 1
