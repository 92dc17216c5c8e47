"""Which of one worker's images were kept, lost, or in flight when it died; pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.simulator.ledger import Call


@dataclass(frozen=True, slots=True)
class Payments:
    """Images by result.
    in_flight    pending at the kill, or answered but not yet stored according to the worker's log
    lost         made, but neither recorded nor in any category below
    discarded    delivered for a cancelled order
    not_stored   delivered, and given up by the living worker because Storage or the database failed
    cut          made for a call that the living worker cancelled at the end of its run
    """

    in_flight: int = 0
    lost: int = 0
    discarded: int = 0
    not_stored: int = 0
    cut: int = 0


def payments(
    calls: Iterable[Call],
    killed_at: float | None,
    events: Iterable[Mapping[str, Any]],
    recorded: Collection[str],
    cancelled: Collection[int],
) -> Payments:
    """The payments of one worker.

    `calls` are its calls, `killed_at` is in the ledger's clock (None if it was not killed), `events` are its
    log records, `recorded` the fingerprints of images with a row, `cancelled` the numbers of calls for
    cancelled orders.
    """
    admitted = [call for call in calls if call.admitted]
    under_way = [call for call in admitted if killed_at is not None and is_open(call, killed_at)]
    ended = [call for call in admitted if call not in under_way]
    delivered = [call for call in ended if call.outcome == "image"]
    told = Counter(_told(event) for event in events)
    untold = max(len(delivered) - told["kept"] - told["not stored"], 0)
    missing = [call for call in delivered if _missing([call], recorded)]
    discarded = sum(call.sequence in cancelled for call in missing)
    not_stored = min(told["not stored"], len(missing) - discarded)
    return Payments(
        in_flight=0 if killed_at is None else len(under_way) + untold,
        lost=_missing(under_way, recorded) + len(missing) - discarded - not_stored,
        discarded=discarded,
        not_stored=not_stored,
        cut=sum(call.images for call in ended if call.outcome == "cut"),
    )


def is_open(call: Call, moment: float) -> bool:
    """Whether a call was pending, or had been sent but had not arrived yet."""
    return call.ended is None or call.ended >= moment


def _missing(calls: Sequence[Call], recorded: Collection[str]) -> int:
    return sum(sha not in recorded for call in calls for sha in call.image_shas)


def _told(event: Mapping[str, Any]) -> str:
    """What a log record says about a received image: `kept`, `not stored`, or None."""
    name = event["message"]
    if name == "image_discarded" or (name == "image_made" and not event["adopted"]):
        return "kept"
    return "not stored" if name == "image_erred" and event["paid"] else ""
