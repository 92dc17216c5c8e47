"""What one worker had Gemini make: what was kept, what was lost, what was in flight when it died; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.simulator.ledger import Call


@dataclass(frozen=True, slots=True)
class Payments:
    """Images by what became of them.

    in_flight    calls that were under way at the kill, or answered and by the worker's log not yet kept
    lost         made, and neither recorded nor accounted for by what follows
    discarded    delivered for an order that somebody had cancelled
    not_stored   delivered, and given up by the living worker because Storage or the database failed it
    cut          made for a call that the living worker cut at the end of its run
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
    """Those of one worker.

    `calls` are its own, `killed_at` is in the ledger's clock, None if it was not killed; `events` are what it
    logged, `recorded` the fingerprints of images that have a row, `cancelled` the numbers of calls for
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
    """Whether a call had not ended; one that was on its way then and arrived later counts as well."""
    return call.ended is None or call.ended >= moment


def _missing(calls: Sequence[Call], recorded: Collection[str]) -> int:
    return sum(sha not in recorded for call in calls for sha in call.image_shas)


def _told(event: Mapping[str, Any]) -> str:
    """What a line of the log says of an image that Gemini has sent: `kept`, `not stored`, or nothing."""
    name = event["message"]
    if name == "image_discarded" or (name == "image_made" and not event["adopted"]):
        return "kept"
    return "not stored" if name == "image_erred" and event["paid"] else ""
