"""What a set of runs cost: images that were paid for and lost, and attempts spent without a request."""

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
    """Counts of images paid for, kept and discarded; and of calls and uploads cut in progress."""

    paid: int
    kept: int
    discarded: int
    cut_in_flight: int

    @property
    def lost(self) -> int:
        """Images that were paid for and do not exist."""
        return self.paid - self.kept - self.discarded


def images(calls: Iterable[Call], kept: int, discarded: int, uploads_cut: int) -> Images:
    """Count a ledger's images. `uploads_cut` arrived but could not be stored or recorded within the run."""
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
    """Attempts minus the job's claims under which a request reached Gemini, or which completed the job.

    A claim completes a job without a request if an earlier claim stored the image. `attempts` and the times
    of all `claims` are by job; `jobs` is by the name at the beginning of its prompts.
    """
    sent = {(job, len(claims[job])) for job in completed}
    for call in calls:
        found = NAME.search(call.prompt_start)
        if found and (job := jobs.get(found[0])) is not None:
            sent.add((job, bisect_right(claims[job], call.started)))
    claims_with_calls = Counter(job for job, _ in sent)
    return sum(max(count - claims_with_calls[job], 0) for job, count in attempts.items())
