"""How long a simulated call takes: constant, uniform, or lognormal with a real service's heavy tail."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution in seconds: `low_seconds` if constant, low to high if uniform, a median if lognormal.

    A lognormal draw is cut at `high_seconds`. `made_after` is the share of the time after which the image
    exists, and so is billed even if the client has gone by the time the answer could leave.
    """

    kind: Literal["constant", "uniform", "lognormal"] = "constant"
    low_seconds: float = 0.05
    high_seconds: float = 120.0
    median_seconds: float = 1.2
    sigma: float = 0.45
    scale: float = 1.0
    made_after: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "uniform", "lognormal"):
            raise ValueError(f"unknown latency kind {self.kind!r}")
        if not 0 <= self.made_after <= 1:
            raise ValueError("made_after is a share between 0 and 1")
        if min(self.low_seconds, self.high_seconds, self.sigma, self.scale) < 0 or self.median_seconds <= 0:
            raise ValueError("latency can't be negative")

    def draw(self, chance: random.Random) -> float:
        """Return one latency in seconds."""
        if self.kind == "constant":
            return self.low_seconds * self.scale
        if self.kind == "uniform":
            return chance.uniform(self.low_seconds, self.high_seconds) * self.scale
        return (
            min(self.high_seconds, chance.lognormvariate(math.log(self.median_seconds), self.sigma))
            * self.scale
        )

    @classmethod
    def parse(cls, value: Latency | float | Mapping[str, Any]) -> Latency:
        """Read a latency: a number is constant seconds. Raises ValueError or TypeError."""
        if isinstance(value, Latency):
            return value
        if isinstance(value, Mapping):
            return cls(**value)
        return cls(low_seconds=float(value))
