"""What is known of Gemini's image models: the default, who succeeds whom, and what an image costs."""

from __future__ import annotations

from collections.abc import Mapping

DEFAULT_MODEL = "gemini-2.5-flash-image"

SUCCESSORS: Mapping[str, str] = {"gemini-2.5-flash-image": "gemini-3.1-flash-image"}
"""Google announced the shutdown of the former for 2026-10-02 (Gemini API, "Deprecations")."""

DOLLARS_PER_IMAGE: Mapping[str, float] = {"gemini-2.5-flash-image": 0.039, "gemini-3.1-flash-image": 0.067}
"""Standard price of one image of 1024 px (Gemini API price list, 2026)."""


def price_note(model: str, successor: str) -> str:
    """Both prices in words, for whoever has to learn that images cost more from now on."""
    before, after = DOLLARS_PER_IMAGE.get(model), DOLLARS_PER_IMAGE.get(successor)
    if before is None or after is None:
        return "check the price of an image under the new model"
    return f"an image costs ${after:.3f} instead of ${before:.3f}"


def retirement_hint(model: str) -> str:
    """What an operator can do about a model that is gone: the successor and its price, if one is known."""
    successor = SUCCESSORS.get(model)
    if successor is None:
        return "Set GEMINI_MODEL_NAME to an image model that there is."
    return f"Set GEMINI_MODEL_NAME to its successor {successor}; {price_note(model, successor)}."


def unused_note(model: str, own: str, fallback: str | None) -> str | None:
    """That a worker with these models asks no gate of that name; None if it may."""
    if model in (own, fallback):
        return None
    price = "" if model in DOLLARS_PER_IMAGE else f"; no price is known for {model}: caps take the dearest"
    return f"a worker with these settings uses {own}, not {model}{price}"
