"""What every run works with, as the run sees it: the queue, Gemini, Storage, photos, chance and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from worker.gate import Database
from worker.image_task import Model
from worker.keeper import Recorder, Store
from worker.pipeline import Photos
from worker.queue import Claim, Settled, Settlement
from worker.retry import Uniform
from worker.room import Room
from worker.storage_proof import StorageProof
from worker.tries import Within


class Queue(Recorder, Database, Protocol):
    """What a run needs of the queue beyond recording and asking the gate."""

    async def claim(
        self,
        run_id: UUID,
        claim_id: UUID,
        max_jobs: int,
        run_seconds: float,
        model: str,
        within: Within,
        skip_users: Sequence[str] = (),
        max_images: int | None = None,
    ) -> Claim: ...

    async def settle(self, settlements: Sequence[Settlement], within: Within) -> dict[int, Settled]: ...

    async def finish(
        self, run_id: UUID, summary: Mapping[str, Any], spent: Sequence[int], within: Within
    ) -> None: ...


class PhotoLender(Photos, Protocol):
    """The source photos of one run, closed at its end."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What every run of a worker works with. `photos` opens a run's photos, given the buckets and hosts
    that they may come from.

    `in_calls` is memory for the photos being sent.
    """

    queue: Queue
    gemini: Model
    store: Store
    proof: StorageProof
    photos: Callable[[Sequence[str], Sequence[str]], PhotoLender]
    in_calls: Room
    monotonic: Callable[[], float]
    uniform: Uniform
