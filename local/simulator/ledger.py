"""The simulator's ledger: every generateContent call, what it ended as and how many images it cost.

Safe to read from any thread while the server writes.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

# refused: a finish reason or a blocked prompt; no_image: empty or text only; malformed: image can't be
# decoded; 4xx, 5xx: the others; reset: connection closed on purpose; cut: the client left before the answer.
Outcome = Literal[
    "open", "image", "refused", "no_image", "malformed", "429", "404", "4xx", "5xx", "reset", "cut"
]


def fingerprint(key: str) -> str:
    """Eight hex digits that distinguish keys without revealing them; empty for no key."""
    return hashlib.sha256(key.encode()).hexdigest()[:8] if key else ""


@dataclass(frozen=True, slots=True)
class Call:
    """One call. Times are the simulator's clock in seconds; `ended` is None while it is open.

    `images` counts the images made, which are billed even if the client has left.
    `photo_shas` are the SHA-256 of its photos. `admitted` means that it passed key, model and quota.
    `detail` is the finish reason, 429 form or status.
    """

    sequence: int
    started: float
    model: str
    key: str
    prompt_sha: str
    prompt_start: str
    photos: int
    bytes_in: int
    aspect_ratio: str
    ended: float | None = None
    outcome: Outcome = "open"
    detail: str = ""
    admitted: bool = False
    images: int = 0
    image_shas: tuple[str, ...] = ()
    photo_shas: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The call as a JSON object, keys as the fields."""
        return asdict(self)


def _busiest(starts: list[float], window_seconds: float) -> int:
    window: deque[float] = deque()
    most = 0
    for start in sorted(starts):
        window.append(start)
        while start - window[0] >= window_seconds:
            window.popleft()
        most = max(most, len(window))
    return most


class Ledger:
    """All calls since the start or the last reset, and questions about them."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._images_of_prompt: Counter[str] = Counter()
        self._sequence = 0
        self._changed = threading.Condition()

    def open(self, **facts: Any) -> int:
        """Note a call that has arrived; return its sequence number, never used again even after a reset."""
        with self._changed:
            self._sequence += 1
            self._calls[self._sequence] = Call(sequence=self._sequence, **facts)
            self._changed.notify_all()
            return self._sequence

    def update(self, sequence: int, **facts: Any) -> None:
        """Change fields of a call; calls forgotten by a reset are ignored."""
        with self._changed:
            if sequence in self._calls:
                self._calls[sequence] = replace(self._calls[sequence], **facts)
            self._changed.notify_all()

    def next_number(self, prompt: str) -> int:
        """Number the images of one prompt: 1, 2, 3 …"""
        with self._changed:
            self._images_of_prompt[prompt] += 1
            return self._images_of_prompt[prompt]

    def reset(self) -> None:
        """Forget all calls and numbers; pending calls continue unrecorded."""
        with self._changed:
            self._calls.clear()
            self._images_of_prompt.clear()
            self._changed.notify_all()

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls in the order of their arrival."""
        with self._changed:
            return tuple(self._calls.values())

    def paid(self) -> int:
        """Images made, and so billed: also those whose client had gone."""
        return sum(call.images for call in self.calls)

    def paid_and_cut(self) -> int:
        """Images made whose client had gone before the answer."""
        return sum(call.images for call in self.calls if call.outcome == "cut")

    def outcomes(self) -> dict[str, int]:
        """The number of calls by outcome; `open` ones are pending."""
        return dict(Counter(call.outcome for call in self.calls))

    def prompts(self) -> dict[str, dict[str, int]]:
        """Calls and images made per prompt hash."""
        answer: dict[str, dict[str, int]] = {}
        for call in self.calls:
            entry = answer.setdefault(call.prompt_sha, {"calls": 0, "images": 0})
            entry["calls"] += 1
            entry["images"] += call.images
        return answer

    def starts_in_window(
        self, window_seconds: float, model: str | None = None, admitted: bool = False
    ) -> int:
        """The most calls that started within any half-open window; `admitted` leaves out the rejected."""
        calls = [
            call for call in self.calls if model in (None, call.model) and (call.admitted or not admitted)
        ]
        return _busiest([call.started for call in calls], window_seconds)

    def most_open(self) -> int:
        """The most calls that were pending at one time."""
        calls = self.calls
        steps = [(call.started, 1) for call in calls] + [(c.ended, -1) for c in calls if c.ended is not None]
        most = level = 0
        for _, step in sorted(steps):
            level += step
            most = max(most, level)
        return most

    def wait(self, condition: Callable[[Ledger], object], timeout_seconds: float = 60.0) -> bool:
        """Block until `condition(ledger)` is true after some change; False after `timeout_seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(condition(self)), timeout_seconds)

    def summary(self, window_seconds: float = 60.0) -> dict[str, Any]:
        """The questions' answers as one JSON object."""
        return {
            "calls": len(self.calls),
            "paid": self.paid(),
            "paid_and_cut": self.paid_and_cut(),
            "outcomes": self.outcomes(),
            "most_open": self.most_open(),
            "window_seconds": window_seconds,
            "starts_in_window": self.starts_in_window(window_seconds),
            "admitted_in_window": self.starts_in_window(window_seconds, admitted=True),
        }
