"""The rate gate: how much of a quota three overlapping workers use, how many 429s they get, and who waits."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from typing import Any

from bench.harness.bounds import above
from bench.harness.scale import Scale
from bench.harness.site import IMAGES_PER_JOB, WORKERS, Site
from bench.quotas.dbos_queue import Dbos, dbos
from bench.quotas.first_photos import IDLE_RATE, USERS, Fairness, fairness, idle_order
from bench.quotas.peers import Peer, peers
from bench.quotas.rates import UNKNOWN_FACTOR, USER, Known, Learned, known, learned

PURPOSE = "how much of a quota is used, compared with other queues; about five minutes"
WINDOW_SECONDS, BRIEF_WINDOW_SECONDS = 6.0, 3.5
WATCHED = {"unknown": 4, "halved": 4, "doubled": 3, "told": 3}
BRIEFLY_WATCHED = {"unknown": 3, "halved": 3, "doubled": 2, "told": 0}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument("--window", type=above(0), metavar="SECONDS", help="the quota's window (default: 6)")
    parser.add_argument("--brief", action="store_true", help="fewer and shorter windows; about 90 s")
    parser.add_argument("--only", choices=PARTS, help="measure only this part")
    parser.set_defaults(measure=measure)


def measure(options: Namespace) -> None:
    """Measure everything and print it; the last line is JSON."""
    began = time.monotonic()
    scale = Scale(options.window or (BRIEF_WINDOW_SECONDS if options.brief else WINDOW_SECONDS))
    figures: dict[str, Any] = {}
    with Site(scale, (USER, *USERS)) as site:
        _say(site.hardware())
        _say(
            f"{WORKERS} worker processes · quota {scale.rate} starts in any {scale.window_seconds:g} s, "
            f"grace {scale.grace_seconds:.3g} s, runs of {scale.run_seconds:g} s: "
            f"a minute's quota and its times × {scale.factor:.3g}\n"
        )
        for name, part in PARTS.items():
            if options.only in (None, name):
                figures |= part(site, options.brief)
    _say(f"\n{time.monotonic() - began:.0f} s in all")
    _say(json.dumps(figures))


def _known(site: Site, brief: bool) -> dict[str, Any]:
    found: Known = known(site, 3 if brief else 10)
    _row("known rate", f"used over {found.windows} windows", f"{found.used:.1%}")
    _row("", "at most, by the gate's grace", f"{found.possible:.1%}")
    _row("", "sliding window used least", f"{found.least:.1%}")
    _row("", "429 ÷ requests, ramp included", f"{found.share_429:.2%}")
    return {"known": {"used": round(found.used, 4), "share_429": round(found.share_429, 4)}}


def _learned(site: Site, brief: bool) -> dict[str, Any]:
    found: Learned = learned(site, BRIEFLY_WATCHED if brief else WATCHED)
    waited = found.waited
    _row("unknown rate", f"told {UNKNOWN_FACTOR} × the quota: windows to 95 %", _windows(found.windows_to_95))
    _row("", f"429s in {waited['unknown']} windows", f"{found.spent_429}")
    _row("quota halves", "windows to follow", _windows(found.halved))
    _row("", f"429s in {waited['halved']} windows", f"{found.halved_429}")
    _row(
        "quota doubles",
        "windows to follow, from the hourly probe",
        _windows(found.doubled, waited["doubled"]),
    )
    _row("", f"429s in {waited['doubled']} windows", f"{found.doubled_429}")
    _row("", f"use of the new quota after {waited['doubled']}", f"{found.doubled_use:.1%}")
    if waited["told"]:
        _row("", "windows to follow `gate set`", _windows(found.told, waited["told"]))
    return {
        "unknown": {"windows_to_95": _rounded(found.windows_to_95), "spent_429": found.spent_429},
        "step": {"windows_to_follow": _rounded(found.windows_to_follow)},
    }


def _idle(site: Site, brief: bool) -> dict[str, Any]:
    seconds = idle_order(site)
    _row(
        "idle queue",
        f"{IDLE_RATE} a minute, {IMAGES_PER_JOB} images: last start after the first",
        f"{seconds:.2f} s",
    )
    return {"idle_order_seconds": round(seconds, 2)}


def _dbos(site: Site, brief: bool) -> dict[str, Any]:
    found: Dbos | None = dbos(site, 2 if brief else 4, _queued(brief))
    if found is None:
        _say("dbos is not installed: `pip install -r bench/queues.txt` shows it too")
        return {}
    for number, peer in enumerate(found.shares.values()):
        _row("" if number else "DBOS", f"{peer.name}: used", f"{peer.used:.1%}")
        _row("", "  429 ÷ requests", f"{peer.share_429:.2%}")
    _row("", "empty queue: first photo", f"{found.empty_seconds:.2f} s")
    _row("", f"behind {_queued(brief)} images: first photo", f"{found.behind_seconds:.2f} s")
    return {
        "dbos": {
            **{told: _peer(peer) for told, peer in found.shares.items()},
            **_first_photos(found.empty_seconds, found.behind_seconds, brief),
        }
    }


def _peers(site: Site, brief: bool) -> dict[str, Any]:
    found = peers(site, 2 if brief else 4)
    for number, peer in enumerate(found.values()):
        title = "" if number else "peers"
        _row(title, f"{peer.name}: used", f"{peer.used:.1%}")
        _row("", "  429 ÷ requests", f"{peer.share_429:.2%}")
    return {"peers": {name: _peer(found[name]) for name in ("backoff", "sequential")}}


def _peer(peer: Peer) -> dict[str, float]:
    return {"used": round(peer.used, 4), "share_429": round(peer.share_429, 4)}


def _fairness(site: Site, brief: bool) -> dict[str, Any]:
    found: Fairness = fairness(site, _queued(brief))
    who = f"{len(USERS)} users × {IMAGES_PER_JOB} images"
    _row("fairness", f"{who}, empty queue: first photo", f"{found.empty_seconds:.2f} s")
    _row("", f"{who}, {found.ahead} of {found.queued} images ahead", f"{found.behind_seconds:.2f} s")
    _row("", "ratio", f"{found.ratio:.2f}")
    _row("", "first come first served: first photo", f"{found.line_seconds:.2f} s")
    _row("", "ratio", f"{found.line_ratio:.1f}")
    first = _first_photos(found.empty_seconds, found.behind_seconds, brief)
    return {"fairness": {"ratio": round(found.ratio, 3), **first}}


def _queued(brief: bool) -> int:
    return 400 if brief else 1000


def _first_photos(empty: float, behind: float, brief: bool) -> dict[str, float]:
    return {"first_photo_empty": round(empty, 2), f"first_photo_behind_{_queued(brief)}": round(behind, 2)}


PARTS = {
    "known": _known,
    "idle": _idle,
    "learned": _learned,
    "peers": _peers,
    "fairness": _fairness,
    "dbos": _dbos,
}


def _windows(windows: float | None, waited: int | None = None) -> str:
    if windows is not None:
        return f"{windows:.2f}"
    return "not followed" + (f" in {waited}" if waited else "")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _row(part: str, what: str, value: str) -> None:
    _say(f"{part:<15}{what:<52}{value:>18}")


def _say(line: str) -> None:
    print(line, flush=True)
