"""Customers who order, cancel, and send bad photos and forbidden prompts; and failures of Gemini."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bench.harness.site import BUCKET, Site
from local.stack.errors import StackError

T = TypeVar("T")
USERS = tuple(f"user-{number}" for number in range(6))
KINDS = {"ok": 88, "refused": 6, "unreadable": 3, "missing": 3}
"""Kinds of jobs and how often they are ordered; `poison` is ordered separately."""

POISON = "poison"
ALWAYS = (
    {"match": {"prompt": f"[{POISON}"}, "times": None, "answer": {"kind": "image", "hold": True}},
    {"match": {"prompt": "[refused"}, "times": None, "answer": {"kind": "finish", "reason": "IMAGE_SAFETY"}},
)
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "error", "code": 500},
    {"kind": "error", "code": 503},
    {"kind": "html", "code": 502},
    {"kind": "reset"},
    {
        "kind": "quota",
        "limit": 1_000_000,
        "retry_seconds": 1,
    },  # exceeding the gate's rate teaches it no other rate
)


def patiently(work: Callable[[], T], seconds: float = 30.0) -> T:
    """Call `work`, again while the stack is down; returns its result."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return work()
        except (StackError, OSError, ValueError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


class Customers:
    """`ordered` is the kind of every job by its id; `cancelled` are the batches somebody has cancelled."""

    def __init__(self, site: Site, chance: random.Random) -> None:
        self._site, self._chance = site, chance
        self._recent: list[str] = []
        self._names = 0
        self.ordered: dict[int, str] = {}
        self.cancelled: set[str] = set()
        for user in USERS:
            site.upload(user, "unreadable.jpg", b"no picture at all")

    def order(self) -> None:
        """Order a few random jobs as a random user."""
        count = self._chance.randint(2, 6)
        kinds = self._chance.choices(tuple(KINDS), tuple(KINDS.values()), k=count)
        self._recent = [*self._recent[-9:], self._order(kinds)]

    def plant(self) -> None:
        """Order healthy jobs and one that kills its worker."""
        self._order([POISON, "ok", "ok"])

    def cancel(self) -> None:
        """Cancel one of the latest orders."""
        if self._recent:
            batch = self._recent.pop(self._chance.randrange(len(self._recent)))
            patiently(lambda: self._site.call("cancel_generation_batch", p_batch_id=batch))
            self.cancelled.add(batch)

    def trouble(self) -> None:
        """Make Gemini fail the next calls in one or two ways."""
        faults = self._chance.sample(FAULTS, k=self._chance.randint(1, 2))
        rules = [*ALWAYS, *({"times": 1, "answer": fault} for fault in faults)]
        self._site.simulator.configure({"rules": rules})

    def calm(self) -> None:
        """Make Gemini refuse only what it always refuses."""
        self._site.simulator.configure({"rules": list(ALWAYS)})

    def _order(self, kinds: Sequence[str]) -> str:
        user = self._chance.choice(USERS)
        request = {
            "userId": user,
            "basePrompt": "Portrait",
            "numImagesPerExample": self._chance.randint(1, 3),
            "trainingImageUrls": [f"{BUCKET}/{user}/me.jpg"],
            "exampleImages": [self._example(user, kind) for kind in kinds],
        }
        key = f"order-{self._names}"
        function = "enqueue_generation_batch"
        answer = patiently(lambda: self._site.call(function, p_request=request, p_idempotency_key=key))
        self.ordered |= dict(zip(answer["jobIds"], kinds, strict=True))
        return str(answer["batchId"])

    def _example(self, user: str, kind: str) -> dict[str, str]:
        self._names += 1
        photo = kind if kind in ("unreadable", "missing") else "me"
        return {"url": f"{BUCKET}/{user}/{photo}.jpg", "prompt": f"[{kind} {self._names}]"}
