"""How the simulator behaves now: latency, quotas, keys, models and rules; any thread may change it."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from local.simulator.faults import Answer, Rule, consume
from local.simulator.latency import Latency
from local.simulator.quota import Excess, Quota, QuotaMeter

MODELS = (
    "gemini-2.5-flash-image",
    "gemini-3.1-flash-image",
    "gemini-3.1-flash-lite-image",
    "gemini-nano-banana-2.1",
    "gemini-3-pro-image",
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """All settings except the rules. `quotas` by model, "*" for the others; `scale` shrinks pictures.

    `versions` is the `modelVersion` of an image's answer by the requested model: that model itself
    by default, omitted if empty. `retired` models are gone; `closed` ones are listed, and answer 404 to new
    users.
    """

    latency: Latency = field(default_factory=Latency)
    scale: float = 1.0
    mime_type: str = "image/png"
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    models: frozenset[str] = frozenset(MODELS)
    retired: frozenset[str] = frozenset()
    versions: Mapping[str, str] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()
    invalid_keys: frozenset[str] = field(default=frozenset(), repr=False)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mime_type not in ("image/png", "image/jpeg"):
            raise ValueError("mime_type is image/png or image/jpeg")
        if not 0 < self.scale <= 1:
            raise ValueError("scale is above 0 and at most 1")

    def changed(self, settings: Mapping[str, Any]) -> Behaviour:
        """Return a copy with some fields changed, read from JSON values. Raises ValueError or TypeError."""
        if unknown := set(settings) - {item.name for item in fields(self)}:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        parsed = dict(settings)
        if "latency" in parsed:
            parsed["latency"] = Latency.parse(parsed["latency"])
        if "quotas" in parsed:
            parsed["quotas"] = {model: Quota.parse(value) for model, value in parsed["quotas"].items()}
        for name in ("models", "retired", "closed", "invalid_keys"):
            if isinstance(parsed.get(name), str):
                raise ValueError(f"{name} is a list")
            if name in parsed:
                parsed[name] = frozenset(parsed[name])
        return replace(self, **parsed)

    def quota_of(self, model: str) -> Quota:
        """The model's quota, else that of "*", else none."""
        return self.quotas.get(model) or self.quotas.get("*") or Quota()


class Stage:
    """The current behavior, the remaining rules, and the counts against the quotas."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._lock = threading.Lock()
        self._meter = QuotaMeter()
        self._first = dict(settings)
        self._behaviour = Behaviour()
        self._rules: list[Rule] = []
        self._chance = random.Random()
        self.reset()

    @property
    def behaviour(self) -> Behaviour:
        """The settings in force: a frozen snapshot."""
        return self._behaviour

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Change some settings; `rules` replaces the rules, `seed` restarts the random latencies."""
        rest = dict(settings)
        rules = None if rest.get("rules") is None else [Rule.parse(rule) for rule in rest["rules"]]
        rest.pop("rules", None)
        with self._lock:
            self._behaviour = self._behaviour.changed(rest)
            if rules is not None:
                self._rules = rules
            if "seed" in rest:
                self._chance = random.Random(self._behaviour.seed)

    def add_rule(self, rule: Rule) -> None:
        """Add a rule after the existing ones."""
        with self._lock:
            self._rules.append(rule)

    def reset(self, keep_behaviour: bool = False) -> None:
        """Forget all counts and, by default, go back to the first settings and rules."""
        with self._lock:
            self._meter.reset()
        if not keep_behaviour:
            self._behaviour, self._rules, self._chance = Behaviour(), [], random.Random(0)
            self.configure(self._first)

    def arrive(self, model: str, now: float) -> Excess | None:
        """Count a call that arrives `now` against its model's quota, or return how it exceeds it."""
        with self._lock:
            return self._meter.arrive(model, self._behaviour.quota_of(model), now)

    def next_answer(self, prompt: str, model: str) -> tuple[Answer, float]:
        """Return what an admitted call is answered, and after how many seconds."""
        with self._lock:
            answer = consume(self._rules, prompt, model) or Answer()
            drawn = self._behaviour.latency.draw(self._chance)
            return answer, drawn if answer.latency_seconds is None else answer.latency_seconds
