"""The rate gate once more, in plain Python: what the model-based test expects of `generation.gates`."""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from math import ceil, floor
from typing import NamedTuple

WINDOW, GRACE, HORIZON = 60.0, 1.0, 10.0
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
CALIFORNIA = timezone(timedelta(hours=-7))  # in summer, when the tests' noon is


def next_daily_reset(now: datetime) -> datetime:
    """The next midnight in California."""
    today = now.astimezone(CALIFORNIA).replace(hour=0, minute=0, second=0, microsecond=0)
    return today + timedelta(days=1)


class Closed(NamedTuple):
    """Why nothing may start, and for how many seconds; None for a pause, which has no end of its own."""

    reason: str
    seconds: float | None


class Facts(NamedTuple):
    """What a 429 says."""

    period: str
    retry_seconds: float | None
    limit: int | None


@dataclass
class Gate:
    """One model's gate; `paused` and `images_per_day` stand in the limits, which are for all models."""

    rate: int
    burst: int
    epoch: int
    today: date
    started: int = 0
    arrival: datetime = LONG_AGO
    blocked_until: datetime | None = None
    learned: Decimal | None = None
    stated: bool = False
    learned_at: datetime = LONG_AGO
    busy_since: datetime | None = None
    probe_at: datetime | None = None
    probed_at: datetime | None = None
    limited_at: datetime = LONG_AGO
    limits: int = 0
    paused: bool = False
    images_per_day: int | None = None

    @property
    def allowed(self) -> float:
        """Starts a window in force."""
        return max(float(min(self.rate, self.learned or self.rate)), 1.0)

    @property
    def interval(self) -> float:
        """Seconds between starts at even pace, in whole microseconds."""
        return ceil((WINDOW + GRACE) / (self.allowed - min(self.burst, self.allowed) + 1) * 1e6) / 1e6

    @property
    def allowance(self) -> timedelta:
        """How far ahead of even pace a burst may be."""
        return timedelta(seconds=self.interval) * (min(self.burst, self.allowed) - 1)

    @property
    def left(self) -> int | None:
        """Starts left today; None without a cap."""
        return None if self.images_per_day is None else max(self.images_per_day - self.started, 0)

    def aged(self, now: datetime) -> "Gate":
        """The gate as it is by now: a new day's count, a decrease taken back, a stated value outlived."""
        gate, day = replace(self), now.astimezone(CALIFORNIA).date()
        if gate.today != day:
            gate.today, gate.started = day, 0
        since = max(gate.learned_at, gate.blocked_until or LONG_AGO)
        windows = max(floor((now - since).total_seconds() / WINDOW), 0)
        if gate.learned is not None and not gate.stated and windows > 0:
            gate.learned += windows * max(Decimal(gate.rate) / 20, Decimal(1))
            gate.learned_at, gate.limits = since + timedelta(seconds=windows * WINDOW), 0
        elif gate.learned and gate.probed_at and gate.probed_at <= now - timedelta(seconds=HORIZON):
            gate.learned, gate.probed_at = 2 * gate.learned, None
            gate.probe_at = now + timedelta(seconds=WINDOW * 7 / 6)
        if gate.learned is not None and gate.learned >= gate.rate:
            gate.learned, gate.stated = None, False
        return gate

    def due(self, now: datetime) -> datetime:
        """When the next start may be."""
        return max(now, self.arrival - self.allowance, self.blocked_until or LONG_AGO)

    def closed(self, now: datetime, patience_seconds: float) -> Closed | None:
        """Why nothing may start, None if something may."""
        if self.paused:
            return Closed("paused", None)
        if self.left == 0:
            return Closed("daily_cap", (next_daily_reset(now) - now).total_seconds())
        if self.due(now) > now + timedelta(seconds=patience_seconds):
            return Closed("rate_limited", (self.due(now) - now).total_seconds())
        return None

    def starts_within(self, now: datetime, seconds: float) -> int:
        """How many starts the gate can give within so many seconds."""
        ahead = max(self.arrival, self.blocked_until or LONG_AGO, now) - now
        starts = floor((seconds - ahead.total_seconds()) / self.interval) + min(self.burst, self.allowed)
        return int(starts if self.left is None else min(starts, self.left))

    def probe(self, now: datetime) -> int:
        """How many starts beyond the pace would show whether a stated value holds; 0 unless it is time."""
        busy = now - timedelta(seconds=WINDOW)
        due = self.stated and self.probed_at is None and self.probe_at is not None and self.probe_at <= now
        if not due or self.busy_since is None or self.busy_since > busy:
            return 0
        return max(ceil(self.allowed) + 1 - ceil(WINDOW / self.interval), 1)

    def take(self, now: datetime, slots: int, latest: datetime) -> tuple[list[datetime], Closed]:
        """Gives starts out, none later than `latest`; why none, if none, and when to ask again."""
        closed = self.closed(now, HORIZON)
        most = 0 if closed else slots if self.left is None else min(slots, self.left)
        if most and (self.busy_since is None or self.arrival < now - timedelta(seconds=self.interval)):
            self.busy_since = now
        probe = self.probe(now)
        starts = [now] * probe if probe <= most else []
        if starts:
            self.probed_at, self.started = now, self.started + probe
        while len(starts) < most and self.due(now) <= latest:
            starts.append(self.due(now))
            self.arrival = max(self.arrival, starts[-1]) + timedelta(seconds=self.interval)
            self.started += 1
        wait = (self.due(now) - now).total_seconds()
        if closed:
            return starts, closed if closed.reason != "rate_limited" else Closed("rate_limited", wait)
        return starts, Closed("" if starts else "rate_limited", wait)

    def learn(self, facts: Facts, now: datetime) -> tuple[datetime, datetime] | None:
        """Takes a 429 in; within which times the gate is now blocked, None if that is not changed."""
        recent = self.limited_at > now - timedelta(seconds=WINDOW)
        self.limited_at = now
        push, next_probe = 3, now + timedelta(seconds=60 * WINDOW)
        if self.probed_at:
            push, self.probed_at, self.probe_at = 1, None, next_probe
        least = most = facts.retry_seconds or WINDOW
        if facts.period == "day":
            self.epoch += 1
            return (next_daily_reset(now),) * 2
        if facts.period == "minute" and facts.limit and min(facts.limit, self.rate) != self.allowed:
            self.learned, self.stated, self.learned_at = Decimal(facts.limit), True, now
            self.probe_at = next_probe
        elif facts.period == "minute" and not recent:
            self.arrival = max(self.arrival, now) + timedelta(seconds=push * self.interval)
            return None
        elif facts.period == "unknown":
            # Doubles become numeric with 15 digits.
            self.learned = Decimal(f"{max(self.allowed * 0.7, 1.0):.15g}")
            self.stated, self.learned_at, self.limits = False, now, self.limits + 1
            longest = min(2.0 ** min(self.limits, 10), WINDOW)
            least, most = (max(facts.retry_seconds or 0, longest * part) for part in (0.5, 1))
        self.epoch += 1
        blocked = self.blocked_until or LONG_AGO
        return max(blocked, now + timedelta(seconds=least)), max(blocked, now + timedelta(seconds=most))
