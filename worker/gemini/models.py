"""The default model, and what the database knows of all: who succeeds whom, what an image costs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

DEFAULT_MODEL = "gemini-2.5-flash-image"


def price_note(before: str, after: str, prices: Mapping[str, float]) -> str:
    """Both prices in words, for whoever has to learn that images cost something else from now on."""
    if before not in prices or after not in prices:
        return f"check the price of an image of {after}"
    return f"an image costs ${prices[after]:g} instead of ${prices[before]:g}"


class KnownModels:
    """The answer of `generation_models`; without one nothing is known."""

    def __init__(self, answer: Mapping[str, Any] | None) -> None:
        self.rows: dict[str, Mapping[str, Any]] = {
            row["model"]: row for row in (answer or {}).get("models", ())
        }

    def successors(self, model: str) -> list[str]:
        """The models that take this one's place, one after the other."""
        chain = [model]
        while (successor := self.rows.get(chain[-1], {}).get("successor")) and successor not in chain:
            chain.append(successor)
        return chain[1:]

    def price(self, model: str) -> str | None:
        """What an image costs, in words: `$0.039 an image`."""
        dollars = self.rows.get(model, {}).get("dollars")
        return None if dollars is None else f"${dollars:g} an image"

    def costs(self, *models: str) -> str:
        """The prices of some models, in words."""
        return ", ".join(f"{model} costs {self.price(model) or 'what Google says'}" for model in models)

    def instead_of(self, model: str, alive: Collection[str]) -> str | None:
        """Of the models that Google lists, the one to use instead: a successor first, then any known one."""
        others = [row["model"] for row in self.rows.values() if row["dollars"] is not None]
        others.sort(key=lambda other: self.rows[other]["dollars"])
        images = sorted(name for name in alive if "image" in name.removeprefix("imagen") or "banana" in name)
        candidates = (*self.successors(model), *others, *images)
        return next((name for name in candidates if name in alive and name != model), None)


def unused_note(model: str, used: Collection[str], known: KnownModels) -> str | None:
    """That a worker which uses these models asks no gate of that name; None if it may."""
    if model in used:
        return None
    price = "" if known.price(model) else f"; no price is known for {model}: caps take the dearest"
    return f"a worker with these settings uses {' or '.join(used)}, not {model}{price}"
