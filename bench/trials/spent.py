"""What a set of runs has cost: images paid for and lost, and attempts spent though nothing had been sent."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from local.simulator.ledger import Call

NAME = re.compile(r"\[\d+-\d+\]")


@dataclass(frozen=True, slots=True)
class Images:
    """Images paid for, kept and not wanted any more; and calls and uploads that were cut under way."""

    paid: int
    kept: int
    discarded: int
    cut_in_flight: int

    @property
    def lost(self) -> int:
        """Paid for, and nobody has them."""
        return self.paid - self.kept - self.discarded


def images(calls: Iterable[Call], kept: int, discarded: int, uploads_cut: int) -> Images:
    """The account of a ledger. `uploads_cut` arrived and could not be stored or recorded within the run."""
    calls = list(calls)
    cut = sum(call.outcome == "cut" for call in calls)
    return Images(sum(call.images for call in calls), kept, discarded, cut + uploads_cut)


def unsent_attempts(
    attempts: Mapping[int, int],
    claims: Mapping[int, Sequence[float]],
    jobs: Mapping[str, int],
    calls: Iterable[Call],
    completed: Collection[int],
) -> int:
    """Attempts beyond the claims of a job under which a request reached Gemini, or which completed it.

    The latter needs no request where an earlier claim had stored the image. `attempts` and the moments of all
    `claims` by job, `jobs` by the name that its prompts begin with.
    """
    sent = {(job, len(claims[job])) for job in completed}
    for call in calls:
        found = NAME.search(call.prompt_start)
        if found and (job := jobs.get(found[0])) is not None:
            sent.add((job, bisect_right(claims[job], call.started)))
    claims_with_calls = Counter(job for job, _ in sent)
    return sum(max(count - claims_with_calls[job], 0) for job, count in attempts.items())
