"""The storm: workers are killed at random and chosen moments while orders come in; then the queue drains."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.harness.site import Site
from bench.storm.customers import POISON, Customers, patiently
from bench.storm.fleet import LEASE_SECONDS, RUN_SECONDS, Fleet, Kill, key_of
from bench.storm.wire import Aim, Moment

TICK_SECONDS = 0.05
AUTOPSY_SECONDS = 1.0
AIM_SECONDS = 4.0
"""After this long without such a request, the worker is killed anyway."""

MOST_WAITING = 150
"""Limit of open jobs, including those of dead workers; above it, nobody orders."""

ORDERS_A_SECOND = 3
CANCELLED_SHARE, TROUBLED_SHARE = 0.05, 0.3
"""How often an order is followed by a cancellation, and seconds between failures of Gemini."""

STALLED_SHARE = 0.05
"""The share of aims that kill nobody, but hold back the answer of a settle until the run is over."""

STARTING_SHARE = 0.05
"""The share of kills that hit a worker that has not sent anything yet."""

AIMED_SHARE = 0.6
"""The share of the other kills that wait for a request of a chosen kind."""

AIMS: dict[str, int] = {
    "claiming": 5, "looking for objects": 2, "fetching photos": 1, "taking slots": 2, "uploading": 5,
    "recording": 5, "giving up": 1, "settling": 2, "rolling up": 8, "finishing": 4, "removing": 1,
}  # fmt: skip
MOMENTS: tuple[Moment, ...] = ("before", "during", "after", "late", "late")
MAY_BE_LATE = ("uploading", "recording", "giving up", "settling", "rolling up", "finishing")


@dataclass(frozen=True, slots=True)
class Plan:
    """How many workers are killed and how fast; `leases_by_hand` ends a dead worker's leases at its autopsy.

    Poisonous jobs and outages of the stack are spread over the kills. Times in seconds.
    """

    kills: int
    seats: int
    every_seconds: float
    poisons: int
    outages: int
    leases_by_hand: bool = False
    drain_seconds: float = 300.0


@dataclass(slots=True)
class Storm:
    """`held` has the jobs that a dead worker's runs left, by worker and run; `seen` the jobs any run had.

    `left_alone` has jobs that became their dead run's only ones by a late settle, with their runs.
    `suspects` has all jobs ever marked as such; `waiting` is the number of jobs that have not ended.
    """

    site: Site
    fleet: Fleet
    customers: Customers
    chance: random.Random
    plan: Plan
    held: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    seen: dict[str, set[int]] = field(default_factory=dict)
    left_alone: set[tuple[str, int]] = field(default_factory=set)
    suspects: set[int] = field(default_factory=set)
    outages: dict[str, int] = field(default_factory=lambda: {"api": 0, "database": 0})
    waiting: int = 0
    _aimed: dict[int, float] = field(default_factory=dict)
    _call_seen: int = 0
    _planted: int = 0

    def rage(self, tell: Callable[[str], None]) -> None:
        """Kill workers until the plan is fulfilled."""
        self.customers.calm()
        began = kill_at = look_at = time.monotonic()
        told = 0
        while len(self.fleet.kills) < self.plan.kills:
            now = time.monotonic()
            self.fleet.fill()
            if now >= kill_at:
                self._strike()
                kill_at = now + self.chance.expovariate(1 / self.plan.every_seconds)
            self._miss()
            if now >= look_at:
                self._look(ordering=True)
                look_at = now + 1
            if len(self.fleet.kills) >= told + 100:
                told = len(self.fleet.kills)
                tell(f"{told} kills after {now - began:.0f} s")
            time.sleep(TICK_SECONDS)

    def drain(self) -> None:
        """Wait until every job has ended and nothing is held back; only poisonous jobs still kill workers."""
        self.customers.calm()
        deadline = time.monotonic() + self.plan.drain_seconds
        while time.monotonic() < deadline:
            self.fleet.fill()
            self._look(ordering=False)
            if not self.waiting and self.fleet.wire.is_quiet and len(self.held) == len(self.fleet.kills):
                return
            time.sleep(0.5)

    def _strike(self) -> None:
        """Kill a worker at once, or at its next request of a chosen kind."""
        fleet = self.fleet
        starting = self.chance.random() < STARTING_SHARE
        seats = [
            seat
            for seat in fleet.seats
            if seat not in self._aimed
            and not fleet.wire.spares(fleet.worker(seat))
            and fleet.wire.has_spoken(fleet.worker(seat)) != starting
        ]
        if not seats:
            return
        seat = self.chance.choice(seats)
        if starting or self.chance.random() > AIMED_SHARE:
            fleet.kill(fleet.worker(seat))
            return
        self._aimed[seat] = time.monotonic()
        fleet.wire.aim(seat, self._choose_aim())

    def _choose_aim(self) -> Aim:
        if self.chance.random() < STALLED_SHARE:
            return Aim("rolling up", "stalled", RUN_SECONDS)
        phase = self.chance.choices(tuple(AIMS), tuple(AIMS.values()))[0]
        moment = self.chance.choice(MOMENTS if phase in MAY_BE_LATE else MOMENTS[:3])
        seconds = self.chance.uniform(0, 0.01)
        if moment == "late":
            least, most = (
                (1, 4) if self.plan.leases_by_hand else (LEASE_SECONDS - RUN_SECONDS, LEASE_SECONDS + 5)
            )
            seconds = self.chance.uniform(least, most)
        return Aim(phase, moment, seconds)

    def _miss(self) -> None:
        """Drop the aims that were hit, and kill the workers that did not meet theirs in time."""
        for seat, since in list(self._aimed.items()):
            if not self.fleet.wire.is_aimed_at(seat):
                del self._aimed[seat]
            elif self.fleet.wire.spares(self.fleet.worker(seat)):
                self.fleet.wire.aim(seat, None)
            elif time.monotonic() > since + AIM_SECONDS:
                self.fleet.kill(self.fleet.worker(seat))
                del self._aimed[seat]

    def _look(self, ordering: bool) -> None:
        """Once a second: autopsies, poisonous jobs, new orders and outages."""
        self._autopsy()
        self._watch_for_poison()
        if not ordering:
            return
        done = len(self.fleet.kills) / self.plan.kills
        if self._planted < self.plan.poisons and done >= self._planted / (2 * self.plan.poisons):
            self.customers.plant()
            self._planted += 1
        if sum(self.outages.values()) < int(done * (self.plan.outages + 1)):
            self._outage()
        for _ in range(min((MOST_WAITING - self.waiting) // 4, ORDERS_A_SECOND)):
            self.customers.order()
            if self.chance.random() < CANCELLED_SHARE:
                self.customers.cancel()
        if self.chance.random() < TROUBLED_SHARE:
            self.customers.trouble()

    def _autopsy(self) -> None:
        """Note what the dead workers left, once all their requests have been carried out."""
        old = time.monotonic() - AUTOPSY_SECONDS
        due = [kill for kill in self.fleet.kills if kill.worker not in self.held and kill.at < old]
        due = [kill for kill in due if not self.fleet.wire.under_way(kill.worker)]
        rows = patiently(
            lambda: self.site.rows(
                "select id, suspect, split_part(\"lockedBy\", '/', 1) as worker, "
                "split_part(\"lockedBy\", '/', 2) as run "
                "from photo_generation_queue where status in ('pending', 'rate_limited', 'processing') "
            )
        )
        self.waiting = len(rows)
        self.suspects |= {row["id"] for row in rows if row["suspect"]}
        for row in rows:
            if row["run"]:
                self.seen.setdefault(row["run"], set()).add(row["id"])
        for kill in due:
            held = self.held.setdefault(kill.worker, {})
            for row in rows:
                if row["worker"] == kill.worker:
                    held.setdefault(row["run"], set()).add(row["id"])
        self._watch_the_left(rows)
        if self.plan.leases_by_hand and due:
            self._end_leases(due)

    def _watch_the_left(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Find jobs left alone in a dead run, because the others ended and were not rescued as suspects."""
        suspects = {row["id"] for row in rows if row["suspect"]}
        still: dict[str, set[int]] = {}
        for row in rows:
            still.setdefault(row["run"], set()).add(row["id"])
        for runs in self.held.values():
            for run, jobs in runs.items():
                left = still.get(run, set())
                if len(jobs) > 1 and len(left) == 1 and not (jobs - left) & suspects:
                    self.left_alone |= {(run, job_id) for job_id in left}

    def _end_leases(self, kills: list[Kill]) -> None:
        names = ", ".join(f"'{kill.worker}'" for kill in kills)
        patiently(
            lambda: self.site.stack.psql(
                "update photo_generation_queue set \"leaseExpiresAt\" = now() - interval '1 second' "
                f"where status = 'processing' and split_part(\"lockedBy\", '/', 1) in ({names})"
            )
        )

    def _watch_for_poison(self) -> None:
        """Kill the worker that requests a poisonous image; the simulator holds the call back until then."""
        owners = {key_of(self.fleet.worker(seat)): self.fleet.worker(seat) for seat in self.fleet.seats}
        for call in self.site.simulator.ledger(self._call_seen):
            self._call_seen = call.sequence
            if f"[{POISON}" in call.prompt_start and call.key in owners:
                self.fleet.kill(owners[call.key], "generating", POISON)

    def _outage(self) -> None:
        """Kill the API server; or a backend of PostgreSQL, which ends all others, and the API with them."""
        stack = self.site.stack
        if self.outages["api"] > self.outages["database"]:
            query = (
                "select pid from pg_stat_activity where backend_type = 'client backend' "
                "and pid <> pg_backend_pid() order by random() limit 1"
            )
            os.kill(int(patiently(lambda: stack.psql(query))), signal.SIGKILL)
            patiently(lambda: stack.psql("select 1"))
            self.outages["database"] += 1
        else:
            os.kill(stack.supabase.pid, signal.SIGKILL)
            self.outages["api"] += 1
        stack.supabase.restart()
