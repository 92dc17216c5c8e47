"""The gate under a quota that is known, unknown, halved or doubled during the work."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.harness.ledger import Starts
from bench.harness.site import WORKERS, Site

APART_SHARE = 1 / 12
"""The least distance of the workers' starts, as a share of a run (20 s of 240 s); their ends differ too."""

UNKNOWN_FACTOR = 4
"""The factor by which the gate's rate exceeds a quota that it has to learn."""

USER = "somebody"


@dataclass(frozen=True, slots=True)
class Known:
    """The use of a known quota; `least` of the least used sliding window, `possible` by design."""

    windows: int
    used: float
    least: float
    share_429: float
    possible: float


@dataclass(frozen=True, slots=True)
class Learned:
    """What learning a quota cost, and how many windows it took; None if not within `waited`."""

    windows_to_95: float | None
    spent_429: int
    halved: float | None
    halved_429: int
    doubled: float | None
    doubled_429: int
    doubled_use: float
    told: float | None
    waited: dict[str, int]

    @property
    def windows_to_follow(self) -> float | None:
        """The slower of halving and doubling, without the operator's help."""
        if self.halved is None or self.doubled is None:
            return None
        return max(self.halved, self.doubled)


def known(site: Site, windows: int, ramp_windows: float = 1.0) -> Known:
    """Measure with a known quota, starting one window after all workers have started."""
    scale = site.scale
    seconds = scale.window_seconds * windows
    site.begin(scale.rate, scale.rate)
    site.order(USER, round(scale.rate * (windows + ramp_windows + 4)))
    with site.workers(_apart_seconds(site)):
        site.wait_for_calls()
        _wait_for_runs(site)
        begin = time.monotonic() + ramp_windows * scale.window_seconds
        _sleep_until(begin + seconds)
        starts = site.starts()
    return Known(
        windows=windows,
        used=starts.used(scale.rate, scale.window_seconds, begin, begin + seconds),
        least=starts.least_used(scale.rate, scale.window_seconds, begin, begin + seconds),
        share_429=starts.share_429,
        possible=scale.window_seconds / (scale.window_seconds + scale.grace_seconds),
    )


def learned(site: Site, watch: dict[str, int]) -> Learned:
    """Set the gate to UNKNOWN_FACTOR × the quota; later the quota halves, and doubles again.

    Above a stated quota the gate probes once an hour: the doubling is measured from the next probe.
    `watch` has the number of windows to watch for each phase: `unknown`, `halved`, `doubled`, and `told`, in
    which the operator sets the new rate.
    """
    scale = site.scale
    window, rate = scale.window_seconds, scale.rate
    site.begin(rate, rate * UNKNOWN_FACTOR)
    site.order(USER, rate * (sum(watch.values()) + UNKNOWN_FACTOR + 2))
    with site.workers(_apart_seconds(site)):
        began = site.wait_for_calls()
        halved = _sleep_until(began + watch["unknown"] * window)
        site.set_quota(rate // 2)
        doubled = _sleep_until(halved + watch["halved"] * window)
        site.set_quota(rate)
        site.skip_hour()
        told = _sleep_until(doubled + watch["doubled"] * window)
        if watch["told"]:
            site.set_gate(rate)
        end = _sleep_until(told + watch["told"] * window)
        starts = site.starts()
    return Learned(
        windows_to_95=starts.windows_until_near(rate, window, began, halved),
        spent_429=_limited(starts, began, halved),
        halved=starts.windows_until_near(rate // 2, window, halved, doubled),
        halved_429=_limited(starts, halved, doubled),
        doubled=starts.windows_until_near(rate, window, doubled, told),
        doubled_429=_limited(starts, doubled, told),
        doubled_use=starts.used(rate, window, told - window, told),
        told=starts.windows_until_near(rate, window, told, end) if watch["told"] else None,
        waited=watch,
    )


def _apart_seconds(site: Site) -> float:
    return site.scale.run_seconds * APART_SHARE


def _limited(starts: Starts, begin: float, end: float) -> int:
    return len(starts.between(begin, end).limited)


def _wait_for_runs(site: Site) -> None:
    """Wait until each worker has a run in progress."""
    query = 'select count(distinct "workerId") from generation.runs where "finishedAt" is null'
    deadline = time.monotonic() + 30
    while int(site.stack.psql(query)) < WORKERS and time.monotonic() < deadline:
        time.sleep(0.1)


def _sleep_until(moment: float) -> float:
    """Sleep until a time; returns the time of waking."""
    time.sleep(max(moment - time.monotonic(), 0))
    return time.monotonic()
