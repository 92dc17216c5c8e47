"""The default model, and the models that the database knows: their successors and prices."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

DEFAULT_MODEL = "gemini-2.5-flash-image"
MODELS_PAGE = "https://ai.google.dev/gemini-api/docs/models"


def price_note(before: str, after: str, prices: Mapping[str, float]) -> str:
    """Both prices in words, to inform operators of a changed price."""
    if before not in prices or after not in prices:
        return f"check the price of an image of {after}"
    return f"an image costs ${prices[after]:g} instead of ${prices[before]:g}"


class KnownModels:
    """The answer of `generation_models`; None if the database did not answer."""

    def __init__(self, answer: Mapping[str, Any] | None) -> None:
        self.rows: dict[str, Mapping[str, Any]] = {
            row["model"]: row for row in (answer or {}).get("models", ())
        }

    def successors(self, model: str) -> list[str]:
        """The chain of successors of a model, in order."""
        chain = [model]
        while (successor := self.rows.get(chain[-1], {}).get("successor")) and successor not in chain:
            chain.append(successor)
        return chain[1:]

    def price(self, model: str) -> str | None:
        """The price in words: `$0.039 an image`."""
        dollars = self.rows.get(model, {}).get("dollars")
        return None if dollars is None else f"${dollars:g} an image"

    def costs(self, *models: str) -> str:
        """The prices of some models, in words."""
        prices = {model: self.price(model) for model in models}
        return ", ".join(
            f"{model} costs {price}" if price else f"the price of {model} is unknown"
            for model, price in prices.items()
        )

    def instead_of(self, model: str, alive: Collection[str]) -> str | None:
        """The model to use instead, of those that Google lists: a successor first, then any known model."""
        others = [row["model"] for row in self.rows.values() if row["dollars"] is not None]
        others.sort(key=lambda other: self.rows[other]["dollars"])
        images = sorted(name for name in alive if "image" in name.removeprefix("imagen") or "banana" in name)
        candidates = (*self.successors(model), *others, *images)
        return next((name for name in candidates if name in alive and name != model), None)

    def advice(self, model: str, alive: Collection[str]) -> str:
        """Advice to the operator about a retired model: one of those that Google lists, and its price."""
        instead = self.instead_of(model, alive)
        if instead is None:
            return f"Set GEMINI_MODEL_NAME to an available image model: see {MODELS_PAGE}."
        prices = self.costs(*(name for name in (instead, model) if self.price(name)))
        return f"Set GEMINI_MODEL_NAME={instead}, which is available{f'; {prices}' if prices else ''}."


def unused_note(model: str, used: Collection[str], known: KnownModels) -> str | None:
    """A note that a worker with the `used` models never uses the gate of `model`; None if it does."""
    if model in used:
        return None
    price = (
        ""
        if known.price(model)
        else f"; the price of {model} is unknown: caps assume the highest known price"
    )
    return f"a worker with these settings uses {' or '.join(used)}, not {model}{price}"
