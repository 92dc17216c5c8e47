"""The plan of one randomised run: its time, its order, what hangs, when it is stopped."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from bench.trials.relay import Fault

LATENCY = {"kind": "lognormal", "median_seconds": 0.4, "sigma": 1.3, "high_seconds": 60.0}
"""One call in forty takes longer than 5 s, most of a run's time here."""

MARKS: dict[str, dict[str, Any]] = {
    "[hang]": {"kind": "hang"},
    "[lost]": {"kind": "hang", "images": 1},
    "[drip]": {"kind": "drip", "seconds": 30.0},
}
"""Marks in a prompt: Gemini never answers, makes an image but never answers, or answers too late."""

FAULTS: tuple[Fault, ...] = ("silent", "no uploads", "drip", "deaf", "deaf", "deaf")
PATHS = (
    "/rpc/claim_generation_jobs",
    "/rpc/take_start_slots",
    "/rpc/record_generated_photo",
    "/rpc/settle_generation_jobs",
    "/rpc/finish_generation_run",
    "/object/authenticated/training-photos/",
    "/object/generated-photos/",
    "/object/list/",
)
"""The calls that Supabase may ignore, one at a time."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault of Supabase: its begin in seconds of the run, and its duration (None: until the end)."""

    fault: Fault
    path: str
    begins_seconds: float
    lasts_seconds: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. `prompts` are those of the jobs ordered before it; `stop_seconds` is when SIGTERM comes."""

    number: int
    budget_seconds: float
    prompts: tuple[str, ...]
    images: int
    trouble: Trouble | None
    stop_seconds: float | None = None

    @property
    def is_calm(self) -> bool:
        """Whether no fault is planned; slow calls and other runs' leftovers are still possible."""
        return self.trouble is None and not any(mark in prompt for prompt in self.prompts for mark in MARKS)


def rules() -> list[dict[str, Any]]:
    """The simulator's rules for the marks."""
    return [{"match": {"prompt": mark}, "times": None, "answer": answer} for mark, answer in MARKS.items()]


def draw(number: int, chance: random.Random) -> Plan:
    """Plan a run of 5 to 9 s."""
    return Plan(
        number,
        chance.uniform(5, 9),
        _prompts(number, chance),
        chance.choice((1, 1, 1, 2)),
        _trouble(chance, 6),
    )


def draw_stopped(number: int, chance: random.Random) -> Plan:
    """Plan a run of a minute that is stopped in its first 1.5 s, before or after a fault begins."""
    prompts, images = _prompts(number, chance, 3, 6), chance.choice((1, 1, 1, 2))
    return Plan(number, 60, prompts, images, _trouble(chance, 1.5), chance.uniform(0, 1.5))


def _prompts(number: int, chance: random.Random, least: int = 0, most: int = 3) -> tuple[str, ...]:
    weights = (0.85, 0.05, 0.05, 0.05)
    marks = chance.choices(("", *MARKS), weights, k=chance.randint(least, most))
    return tuple(f"[{number}-{place}] {mark}" for place, mark in enumerate(marks))


def _trouble(chance: random.Random, latest_seconds: float) -> Trouble | None:
    if chance.random() < 0.5:
        return None
    lasts = None if chance.random() < 0.5 else chance.uniform(0.1, 3)
    return Trouble(chance.choice(FAULTS), chance.choice(PATHS), chance.uniform(0, latest_seconds), lasts)
