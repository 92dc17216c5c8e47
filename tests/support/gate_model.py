"""A model of the rate gate in plain Python: what the model-based test expects of `generation.gates`."""

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from math import ceil, floor
from typing import NamedTuple
from uuid import UUID

WINDOW, GRACE, HORIZON = 60.0, 1.0, 10.0
LEAD = timedelta(seconds=HORIZON / 2)
LONG_AGO, NEVER = datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
CALIFORNIA = timezone(timedelta(hours=-7))  # in summer, when the tests' noon is


def next_daily_reset(now: datetime) -> datetime:
    """The next midnight in California."""
    today = now.astimezone(CALIFORNIA).replace(hour=0, minute=0, second=0, microsecond=0)
    return today + timedelta(days=1)


class Closed(NamedTuple):
    """Why nothing may start, and for how many seconds; None for a pause, which has no end."""

    reason: str
    seconds: float | None


class Facts(NamedTuple):
    """The facts of a 429."""

    period: str
    retry_seconds: float | None
    limit: int | None


@dataclass(eq=False)
class Turn:
    """A run's place in line; here each is for a user of its own, so that all weigh the same."""

    images: int = 0
    tag: float = 0.0
    served: bool = False
    at: datetime = NEVER
    heard_at: datetime = LONG_AGO


@dataclass
class Gate:
    """One model's gate; `paused` and `images_per_day` are limits of all models."""

    rate: int
    burst: int
    epoch: int
    today: date
    started: int = 0
    given: list[datetime] = field(default_factory=list)
    proven: int = 0
    blocked_until: datetime | None = None
    learned: Decimal | None = None
    stated: bool = False
    learned_at: datetime = LONG_AGO
    probe_at: datetime | None = None
    probed_at: datetime | None = None
    limited_at: datetime = LONG_AGO
    limits: int = 0
    line: dict[UUID, Turn] = field(default_factory=dict)
    paused: bool = False
    images_per_day: int | None = None

    @property
    def allowed(self) -> float:
        """Starts a window in force."""
        return max(float(min(self.rate, self.learned or self.rate)), 1.0)

    @property
    def span(self) -> timedelta:
        """How long a start counts."""
        return timedelta(seconds=WINDOW + GRACE)

    @property
    def even(self) -> timedelta:
        """The even interval between starts."""
        return timedelta(seconds=ceil((WINDOW + GRACE) / floor(self.allowed) * 1e6) / 1e6)

    @property
    def last(self) -> datetime:
        """When the last start is that was given out."""
        return self.given[-1] if self.given else LONG_AGO

    def counted(self, at: datetime, until: datetime = NEVER) -> int:
        """How many starts are within a span before a time, including those given out for later."""
        return sum(at - self.span < start <= until for start in self.given)

    def at_once(self, at: datetime) -> int:
        """Below how many counted starts the next one comes at once."""
        if max(self.limited_at, self.blocked_until or LONG_AGO) > at - timedelta(seconds=WINDOW):
            return 1
        proven = min(ceil(self.allowed / 2), max(ceil(self.proven / 2), 5))
        return min(floor(self.allowed), self.burst or proven)

    @property
    def pace(self) -> float:
        """Seconds between starts from now on: the least at which a span of them never meets the limit."""
        if not self.given:
            return self.even.total_seconds()
        most, latest = floor(self.allowed), self.given[::-1]
        waits = [
            (latest[place] - self.last + self.span).total_seconds() / (most - place)
            for place in range(min(most, len(latest)))
        ]
        return ceil(max(waits) * 1e6) / 1e6

    def keep(self, starts: list[datetime], now: datetime) -> None:
        """Remembers starts; those within a 256th of a window count as the last of them."""
        if not starts:
            return
        kept = sorted([start for start in self.given if start > now - self.span] + starts)
        cells = [floor(start.timestamp() * 256 / WINDOW) for start in kept]
        last = dict(zip(cells, kept, strict=True))
        self.given = [last[cell] for cell in cells]

    @property
    def left(self) -> int | None:
        """The day's remaining starts; None without a cap."""
        return None if self.images_per_day is None else max(self.images_per_day - self.started, 0)

    def aged(self, now: datetime) -> "Gate":
        """The gate at this time: a new day's count, an expired decrease, an expired stated quota."""
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
        free = max(now, self.blocked_until or LONG_AGO)
        if self.counted(free) < self.at_once(free):
            return free
        return max(free, self.last + timedelta(seconds=self.pace))

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
        """About how many starts the gate can give within so many seconds."""
        due, span = self.due(now), WINDOW + GRACE
        counted, rest = self.counted(due), seconds - (due - now).total_seconds()
        at_once = max(self.at_once(due) - counted, 0)
        if rest < 0:
            return 0
        pace = span / (floor(self.allowed) - max(self.at_once(due), counted) + 1) if at_once else self.pace
        by_pace = max(at_once, 1) + floor(rest / pace)
        starts = max(by_pace, floor(rest / self.even.total_seconds()) - counted)
        return int(starts if self.left is None else min(starts, self.left))

    def probe(self, now: datetime) -> int:
        """How many starts beyond the pace would test a stated quota; 0 unless a probe is due."""
        due = self.stated and self.probed_at is None and self.probe_at is not None and self.probe_at <= now
        if (
            not due
            or (self.blocked_until or LONG_AGO) > now
            or self.counted(now, now) < floor(self.allowed * 0.99)
        ):
            return 0
        span = WINDOW + GRACE + (WINDOW / 256 if self.allowed > 256 else 0)
        return max(ceil(self.allowed) + 1 - ceil(self.allowed * WINDOW / span), 1)

    def take(
        self, now: datetime, run: UUID, slots: int, latest: datetime
    ) -> tuple[list[datetime], Closed, datetime]:
        """Gives starts out to a run, none later than `latest`.

        With them why none, if none, and when the next is; and when the run's next turn can have come.
        """
        closed = self.closed(now, HORIZON)
        most = 0 if closed else slots if self.left is None else min(slots, self.left)
        if most:
            self._prove(now)
        probe = self.probe(now) if most else 0
        if probe and probe <= most:
            self.probed_at = now
        else:
            probe = 0
        turn = self._place_in_line(now, run, slots)
        starts = self._in_turn(now, turn, most - probe, latest)
        self.keep(starts, now)
        starts = [now] * probe + starts
        self.started += len(starts)
        self._save_place(now, turn, len(starts))
        wait = (self.due(now) - now).total_seconds()
        if closed and closed.reason == "rate_limited":
            closed = Closed("rate_limited", wait)
        return starts, closed or Closed("" if starts else "rate_limited", wait), turn.at

    @property
    def turn_starts(self) -> int:
        """How many starts a turn is."""
        return min(max(round(HORIZON / 5 / self.even.total_seconds()), 1), 5)

    def _others(self, now: datetime, turn: Turn) -> list[Turn]:
        """The other runs that wait."""
        return [t for t in self.line.values() if t is not turn and t.at > now - LEAD]

    def _before(self, now: datetime, turn: Turn) -> int:
        """How many starts the others are given first."""
        size, others = self.turn_starts, self._others(now, turn)
        first = [t for t in others if (t.tag, t.at) < (turn.tag, turn.at)]
        return sum(min(t.images, max(round((turn.tag - t.tag) / size), 1) * size) for t in first)

    def _place_in_line(self, now: datetime, run: UUID, images: int) -> Turn:
        for other, turn in list(self.line.items()):
            if turn.heard_at < now - timedelta(seconds=90):
                del self.line[other]
        is_new = run not in self.line
        turn = self.line.setdefault(run, Turn())
        tags = [other.tag for other in self._others(now, turn)]
        first = min(tags) if tags else max((t.tag for t in self.line.values() if t is not turn), default=0.0)
        served = [other.tag for other in self._others(now, turn) if other.served]
        if is_new:
            turn.tag = min(served) - 1 if served else first
        elif turn.at <= now - LEAD:
            turn.tag = max(turn.tag, first)
        turn.images, turn.heard_at = images, now
        return turn

    def _in_turn(self, now: datetime, turn: Turn, most: int, latest: datetime) -> list[datetime]:
        size, before, others = self.turn_starts, self._before(now, turn), self._others(now, turn)
        if not others or most < 1:
            return self._open(now, most, latest)
        theirs = sum(min(other.images, size) for other in others)
        starts = self._open(now, most + max(before, theirs), latest)
        due, soon, near = (sum(start <= now + part * LEAD for start in starts) for part in (0, 0.5, 1))
        told = max(size, soon) if turn.at <= now else 0
        given = max(due, min(near - before, size), near - theirs, told)
        return starts[: max(min(given, most), 0)]

    def _save_place(self, now: datetime, turn: Turn, given: int) -> None:
        if given:
            turn.tag, turn.served = turn.tag + given, True
            turn.at = NEVER
        at = self.due(now) - timedelta(seconds=HORIZON)
        if self._others(now, turn):
            at = self.due(now) - LEAD + self._before(now, turn) * self.even
        turn.at = min(max(at, now), now + timedelta(days=1))

    def _prove(self, now: datetime) -> None:
        """The most starts of a span that no 429 followed, unless near the rate is known to pass already."""
        last = min(self.last, now)
        if self.proven < floor(self.allowed * 0.99) and self.limited_at <= last - self.span:
            self.proven = max(self.proven, self.counted(last, last))

    def _open(self, now: datetime, most: int, latest: datetime) -> list[datetime]:
        """The starts that can be given out, up to `most`."""
        due = self.due(now)
        if most < 1 or due > latest:
            return []
        starts = [due] * min(most, max(self.at_once(due) - self.counted(due), 1))
        after = replace(self)
        after.keep(starts, now)
        pace = timedelta(seconds=after.pace)
        following = [due + place * pace for place in range(1, most - len(starts) + 1)]
        return starts + [start for start in following if start <= latest]

    def drop_blocked(self, now: datetime) -> None:
        """Forgets the starts that were given out for a time that is now blocked."""
        come = now + timedelta(seconds=WINDOW / 256)
        blocked = self.blocked_until or LONG_AGO
        self.given = [start for start in self.given if start <= come or start >= blocked]

    def learn(self, facts: Facts, now: datetime) -> tuple[datetime, datetime] | None:
        """Takes a 429 in; within which times the gate is now blocked, None if that is not changed."""
        recent = self.limited_at > now - timedelta(seconds=WINDOW)
        self.limited_at = now
        next_probe = now + timedelta(seconds=60 * WINDOW)
        if self.probed_at:
            self.probed_at, self.probe_at = None, next_probe
        least = most = facts.retry_seconds or WINDOW
        if facts.period == "day":
            least = most = (next_daily_reset(now) - now).total_seconds()
        if facts.period == "minute" and facts.limit and min(facts.limit, self.rate) != self.allowed:
            self.learned, self.stated, self.learned_at = Decimal(facts.limit), True, now
            self.probe_at, self.proven = next_probe, min(facts.limit, self.rate)
        elif facts.period == "minute" and not recent:
            self.keep([max(self.last + self.even, now)], now)
            return None
        elif facts.period == "unknown":
            # Doubles become numeric with 15 digits.
            self.learned = Decimal(f"{max(self.allowed * 0.7, 1.0):.15g}")
            self.stated, self.learned_at, self.limits, self.proven = False, now, self.limits + 1, 0
            longest = min(2.0 ** min(self.limits, 10), WINDOW)
            least, most = (max(facts.retry_seconds or 0, longest * part) for part in (0.5, 1))
        self.epoch += 1
        blocked = self.blocked_until or LONG_AGO
        return max(blocked, now + timedelta(seconds=least)), max(blocked, now + timedelta(seconds=most))
