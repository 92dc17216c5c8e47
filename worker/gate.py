"""The rate gate's gateway: how a run asks the database for starts, and tells it of a 429."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from worker.budget import Budget
from worker.errors import QuotaFacts
from worker.slots import LimitAnswer, SlotAnswer
from worker.tries import Within

MOST_SLOTS = 1000


class Database(Protocol):
    """What calls a database function by name; raises QueueUnavailable and QueueRefused."""

    async def operate(
        self, function: str, params: Mapping[str, Any], within: Within = 30.0, tries: int = 4
    ) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class DatabaseGate:
    """The gate of one model for one run, whose budget bounds each question."""

    database: Database
    run_id: UUID
    model: str
    budget: Budget

    async def take(self, slots: int, within_seconds: float) -> SlotAnswer:
        """Ask for up to `slots` starts. An answer that is lost costs its slots and nothing else."""
        params = {
            "p_run_id": str(self.run_id),
            "p_model": self.model,
            "p_slots": min(max(slots, 1), MOST_SLOTS),
            "p_within_seconds": within_seconds,
        }
        within = self.budget.until("generate")
        answer = await self.database.operate("take_start_slots", params, within, tries=1)
        return SlotAnswer(
            slots=tuple(answer["slots"]),
            grace_seconds=answer["graceSeconds"],
            horizon_seconds=answer["horizonSeconds"],
            epoch=answer["epoch"],
            reason=answer["reason"],
            next_seconds=answer["nextInSeconds"],
        )

    async def report(self, facts: QuotaFacts, epoch: int | None) -> LimitAnswer:
        """Tell of a 429 under a slot of `epoch`; the gate learns from it once."""
        told = {
            "period": facts.period,
            "retryAfterSeconds": facts.retry_after_seconds,
            "limit": facts.limit,
        }
        params = {"p_model": self.model, "p_facts": told, "p_epoch": epoch}
        within = self.budget.until("save")
        answer = await self.database.operate("report_rate_limit", params, within, tries=1)
        return LimitAnswer(answer["epoch"], answer["blockedForSeconds"])
