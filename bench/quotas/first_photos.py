"""How long users wait for their first photo behind a user with a long queue, compared with an empty queue."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from bench.harness.site import IMAGES_PER_JOB, Site
from bench.quotas.rates import USER
from local.stack.errors import StackError

USERS = tuple(f"user-{number}" for number in range(10))
WAIT_SECONDS = 60.0
IDLE_RATE = 10
"""Starts per window of a new account."""


@dataclass(frozen=True, slots=True)
class Fairness:
    """Median seconds from enqueue to each user's first photo, and the same for first come, first served."""

    queued: int
    ahead: int
    empty_seconds: float
    behind_seconds: float
    line_seconds: float

    @property
    def ratio(self) -> float:
        """The time behind the long queue ÷ the time in an empty one."""
        return self.behind_seconds / self.empty_seconds

    @property
    def line_ratio(self) -> float:
        """The same for first come, first served."""
        return self.line_seconds / self.empty_seconds


def fairness(site: Site, queued: int, windows: float = 1.5) -> Fairness:
    """Ten users with a job each arrive at idle workers, then `windows` after one user's `queued` images."""
    scale = site.scale
    site.begin(scale.rate, scale.rate)
    with site.workers(0.0):
        _wait_for_idle_workers()
        empty = _first_photos(site)
        _wait_until_worked_off(site)
        site.order(USER, queued)
        time.sleep(windows * scale.window_seconds)
        ahead = _images_left(site)
        behind = _first_photos(site)
    rate_per_second = scale.rate / (scale.window_seconds + scale.grace_seconds)
    in_line = [(ahead + place * IMAGES_PER_JOB) / rate_per_second for place in range(len(USERS))]
    return Fairness(queued, ahead, median(empty), median(behind), median(in_line))


def idle_order(site: Site) -> float:
    """How long after the first of four images the last starts, in an idle queue with a new quota.

    In seconds of a real deployment, whose window is a minute.
    """
    site.begin(IDLE_RATE, IDLE_RATE)
    with site.workers(0.0):
        _wait_for_idle_workers()
        site.order(USER, IMAGES_PER_JOB)
        _wait_until_worked_off(site)
        starts = site.starts().admitted
    return (starts[-1] - starts[0]) / site.scale.factor


def _first_photos(site: Site) -> list[float]:
    """Enqueue one job for each user and wait for their first photos; returns the database's seconds."""
    batches = [site.order(user, IMAGES_PER_JOB)[0] for user in USERS]
    named = ", ".join(f"'{batch}'" for batch in batches)
    query = f"""
      select extract(epoch from min(p."createdAt") - b."createdAt") as seconds
      from public.photo_generation_batches as b
      join public.photo_generation_photos as p on p."batchId" = b.id
      where b.id in ({named}) group by b.id"""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        found = site.rows(query)
        if len(found) == len(USERS):
            return [float(row["seconds"]) for row in found]
        time.sleep(0.2)
    raise StackError(f"Not every user had a photo after {WAIT_SECONDS:g} s.", "See the workers' logs.")


def _images_left(site: Site) -> int:
    query = 'select coalesce(sum("imagesTotal" - "imagesDone"), 0) from public.photo_generation_batches'
    return int(site.stack.psql(query))


def _wait_until_worked_off(site: Site) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while _images_left(site) and time.monotonic() < deadline:
        time.sleep(0.1)


def _wait_for_idle_workers() -> None:
    """An idle run leaves no trace; starting a worker takes about two seconds here."""
    time.sleep(5)
