"""The rate limiter of one run: every request to Gemini, including retries, first takes a slot.

The rate gate in the database assigns slots to all workers. A run asks for as many slots as it has images
waiting with their photos loaded, and places for them, and says for which users. Each answer says when the
run's next turn can have come, before which it does not ask, and in how many runs each user waits. The run
gives its slots to users in turns; one who waits in three runs gets a third as many in each, so that all
users get as many, whichever runs they wait in.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from worker import log
from worker.common.deadline import Deadline
from worker.common.fair_budget import FairBudget
from worker.errors import GenerationError, QuotaFacts
from worker.run.deadlines import Deadlines
from worker.run.outcome import NotStarted, NotStartedReason
from worker.run.stop import Stop
from worker.supabase.queue import Database

MOST_SLOTS = 1000
"""Most slots that one call may request."""

LEAST_WAIT_SECONDS = 0.05
"""Shortest wait between two calls to a gate that had no slot."""

REPORT_SECONDS = 5.0
"""Time for reporting a 429, during which the run starts nothing."""

UNKNOWN_QUOTA_PAUSE_SECONDS = 20.0
"""Pause after a 429 without a retry delay that could not be reported to the gate."""


class RateLimiter:
    """The slots of one run, which makes at most `places` images concurrently.

    `refusal` is the gate's reason if its last answer had no slots; `horizon` is how many seconds in advance
    the gate gives slots. A slot expires `graceSeconds` after its time, and when the gate's epoch increases,
    as after a 429.
    """

    def __init__(
        self,
        database: Database,
        run_id: UUID,
        model: str,
        places: int,
        deadlines: Deadlines,
        stop: Stop,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._run_id = run_id
        self._deadlines = deadlines
        self._stop = stop
        self._monotonic = monotonic
        self._grace, self.horizon = 0.0, math.inf
        self._wake = Deadline(-math.inf, monotonic)
        self._reports = 0
        self._has_newcomer = False
        self._runs_of_users: Mapping[str, int] = {}
        self._places = FairBudget(places, alone=places, price=lambda owner: self._runs_of_users.get(owner, 1))
        self.use(model)

    def use(self, model: str) -> None:
        """Use the gate of a model, without the slots of the one before."""
        self._model = model
        self._announced: set[str] = set()  # the users for whom its gate was asked
        self._slots: deque[float] = deque()
        self._epoch = 0  # unknown
        self.refusal: str | None = None
        self.blocked_until = -math.inf
        self._ask_soon()

    @asynccontextmanager
    async def start(self, owner: str, latest: Deadline, ended: asyncio.Event) -> AsyncIterator[int]:
        """Wait for a place and a slot, and hold the place while the context is open.

        Owners take turns. Only the image whose turn it is has a place without a slot, so that one owner's
        waiting images cannot occupy all places. Yields the slot's epoch, which `report` needs after a 429.
        Raises NotStarted as soon as it is known that there is no slot before `latest`, when the run starts no
        more requests, or when `ended` is set; QueueUnavailable if the gate does not answer.
        """
        if owner not in self._announced:
            self._has_newcomer = True
            self._ask_soon()
        async with self._places.hold_after(owner, 1, lambda: self._next(owner, latest, ended)) as epoch:
            yield epoch

    async def report(self, facts: QuotaFacts, epoch: int) -> None:
        """Report a 429 to the gate, with the `epoch` of its slot, and discard slots of older epochs.

        If several concurrent requests get a 429, the gate adjusts only to the first report, which increases
        the epoch. If the report fails, this run alone pauses.
        """
        model = self._model
        reported = {
            "period": facts.period,
            "retryAfterSeconds": facts.retry_after_seconds,
            "limit": facts.limit,
        }
        params = {"p_model": model, "p_facts": reported, "p_epoch": epoch}
        within = self._deadlines.save.within(REPORT_SECONDS)
        self._reports += 1
        try:
            answer = await self._database.rpc("report_rate_limit", params, within, tries=1)
        except GenerationError as lost:
            self.block(facts.retry_after_seconds or UNKNOWN_QUOTA_PAUSE_SECONDS)
            log.event("rate_limit_not_reported", level="warning", code=lost.code, reason=lost.message)
            return
        finally:
            self._reports -= 1
            self.look_again()
        if model != self._model:
            return
        self.block(answer["blockedForSeconds"])
        if answer["epoch"] > self._epoch:
            self._slots.clear()
            self._epoch = answer["epoch"]
            self._ask_soon()

    def block(self, seconds: float) -> None:
        """Start no request of this run for `seconds`; discard slots before then."""
        if seconds <= 0:
            return
        self.blocked_until = max(self.blocked_until, self._monotonic() + seconds)
        while self._slots and self._slots[0] < self.blocked_until:
            self._slots.popleft()

    def look_again(self) -> None:
        """Wake the image that waits for a slot, since its job or the run's slots may have ended."""
        self._wake.move(-math.inf)

    async def _next(self, owner: str, latest: Deadline, ended: asyncio.Event) -> int:
        """Wait for the next slot and return its epoch. Raises NotStarted."""
        while not self._is_over(ended):
            now = self._monotonic()
            while self._slots and self._slots[0] + self._grace < now:
                self._slots.popleft()
            start = self._slots[0] if self._slots else math.inf
            due = max(min(start, self._may_ask_at), now)
            if due > latest.at:
                break
            if due > now:
                self._wake.move(due)
                await self._stop.sleep(self._wake)
            elif self._reports:
                self._wake.move(latest.at)
                await self._stop.sleep(self._wake)
            elif start <= now:
                self._slots.popleft()
                return self._epoch
            elif not await self._refill(owner, latest):
                break
        raise NotStarted(self._why_not(latest, ended))

    def _why_not(self, latest: Deadline, ended: asyncio.Event) -> NotStartedReason:
        if self._is_over(ended):
            return "stopped"
        return "rate_limited" if self.blocked_until > latest.at or self.refusal else "budget"

    @property
    def _may_ask_at(self) -> float:
        """When the gate may have a slot for this run.

        It does not ask while it has slots, unless a user has come who has had no turn yet: while the run used
        its slots, that turn could pass.
        """
        if self._slots and not (self._has_newcomer and len(self._slots) < self._wanted):
            return math.inf
        return max(self.blocked_until - self.horizon, self._ask_at)

    def _ask_soon(self) -> None:
        """Ask before the run's turn."""
        self._ask_at = -math.inf
        self.look_again()

    @property
    def _wanted(self) -> int:
        """How many slots the run could use now: one for each waiting image for which there is a place."""
        return 1 + min(self._places.waiting, self._places.free)

    def _is_over(self, ended: asyncio.Event) -> bool:
        return self._stop.paused or ended.is_set()

    async def _refill(self, owner: str, latest: Deadline) -> bool:
        """Request the slots that the run could use and does not have.

        Returns False if there is none before `latest`.
        """
        model, answer = self._model, await self._ask(owner, latest)
        if model != self._model or answer["epoch"] < self._epoch:
            return True  # outdated: the model changed or a 429 was reported while the call was pending
        received = self._monotonic()
        if answer["epoch"] > self._epoch:
            self._slots.clear()
        self._grace, self.horizon = answer["graceSeconds"], answer["horizonSeconds"]
        self._epoch, self.refusal = answer["epoch"], answer["reason"]
        self._runs_of_users = answer.get("runsOfUsers", {})  # a database of the version before has none
        self._slots = deque(sorted([*self._slots, *(received + offset for offset in answer["slots"])]))
        if self._announced >= self._places.owners_waiting:  # else somebody came while the call was pending
            pause = 0 if answer["slots"] else LEAST_WAIT_SECONDS
            self._ask_at = received + max(answer["askAgainInSeconds"], pause)
            self._has_newcomer = self._has_newcomer and self.refusal == "rate_limited"
        if self._slots:
            return True
        if answer["nextInSeconds"] is None:
            return False
        self.block(answer["nextInSeconds"])
        return self.blocked_until <= latest.at

    async def _ask(self, owner: str, latest: Deadline) -> dict[str, Any]:
        """Call the gate once, without retries: a lost answer only wastes its slots."""
        owners = self._places.owners_waiting | {owner}
        self._announced |= owners
        params = {
            "p_run_id": str(self._run_id),
            "p_model": self._model,
            "p_slots": min(self._wanted - len(self._slots), MOST_SLOTS),
            "p_within_seconds": latest.at - self._monotonic(),
            "p_users": sorted(owners),
        }
        return await self._database.rpc("take_start_slots", params, self._deadlines.generate, tries=1)
