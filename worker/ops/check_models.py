"""The findings of `check` about Gemini's key and models, and about their announced ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from worker.errors import GenerationError, Misconfigured, ModelRetired, RateLimited
from worker.gemini.models import KnownModels
from worker.ops.finding import Finding

if TYPE_CHECKING:
    from worker.gemini.client import Gemini
    from worker.settings import Settings

TIMEOUT_SECONDS = 10.0
GEMINI_KEY = "create a key at https://aistudio.google.com/apikey, set GEMINI_API_KEY to it and enable billing"
AGREE = "to accept this, set GEMINI_MODEL_NAME={}; to prevent it, set GEMINI_MODEL_FALLBACK=off"
CORRECT = "{}, or correct the date: python -m worker models set {} --ends DATE"


async def gemini_finding(gemini: Gemini, settings: Settings, known: KnownModels) -> Finding:
    """Whether Google accepts the key and has the model, and what an image costs."""
    model = settings.gemini_model_name
    try:
        await gemini.check(model, TIMEOUT_SECONDS)
    except ModelRetired as error:
        if settings.gemini_model_follows:
            return await _followed(gemini, settings, known, error)
        default = settings.gemini_model_is_default
        why = "GEMINI_MODEL_FALLBACK is off" if default else "GEMINI_MODEL_NAME names it"
        message = f"{error.message} Runs stop as misconfigured, since {why}."
        alive = await gemini.listed_models(TIMEOUT_SECONDS)
        return Finding("gemini", "failed", message, known.advice(model, alive))
    except RateLimited as error:
        return Finding("gemini", "warning", error.message, "wait; the key and the model are valid")
    except GenerationError as error:
        again = GEMINI_KEY if isinstance(error, Misconfigured) else "run the check again in a minute"
        return Finding("gemini", "failed", error.message, again)
    price = known.price(model)
    return Finding(
        "gemini", "ok", f"accepts the key and has the model {model}{f', {price}' if price else ''}"
    )


async def _followed(gemini: Gemini, settings: Settings, known: KnownModels, error: ModelRetired) -> Finding:
    """The model is retired: the successor that the worker switches to, with its price."""
    tried: list[str] = []
    for successor in followed(settings, known):
        tried.append(successor)
        try:
            await gemini.check(successor, TIMEOUT_SECONDS)
        except GenerationError:
            continue
        prices = known.costs(successor, error.model)
        message = f"{error.message} The worker switches to {successor} by itself: {prices}."
        return Finding("gemini", "warning", message, AGREE.format(successor))
    gone = (
        f"The worker would switch to {' or '.join(tried)}, but Gemini does not have it"
        if tried
        else "No successor is known"
    )
    message = f"{error.message} {gone}."
    alive = await gemini.listed_models(TIMEOUT_SECONDS)
    return Finding("gemini", "failed", message, known.advice(error.model, alive))


def followed(settings: Settings, known: KnownModels) -> list[str]:
    """The models that a worker with these settings switches to, in order of preference."""
    model, fallback = settings.gemini_model_name, settings.gemini_model_fallback
    if not settings.gemini_model_follows:
        return []
    return [fallback, *known.successors(fallback)] if fallback else known.successors(model)


def models_finding(stats: Mapping[str, Any] | None, settings: Settings, known: KnownModels) -> Finding:
    """Warns if a model in use, or the configured one, is announced to end soon."""
    if stats is None:
        return Finding("models", "skipped", "not checked, since the database check failed")
    words = {each["subject"]: each["words"] for each in stats["warnings"] if each["about"] == "model"}
    named = settings.gemini_model_name
    words |= {named: known.rows.get(named, {}).get("warning")}
    near = {model: warning for model, warning in words.items() if warning}
    if near:
        model = next(iter(near))
        return Finding(
            "models",
            "warning",
            "; ".join(near.values()),
            CORRECT.format(_change(model, settings, known), model),
        )
    return Finding("models", "ok", "no model in use is announced to end within 60 days")


def _change(model: str, settings: Settings, known: KnownModels) -> str:
    """How to replace a model that ends."""
    successor = known.rows.get(model, {}).get("expectedSuccessor")
    if not successor:
        return "choose another model (python -m worker models list) and set GEMINI_MODEL_NAME to it"
    change = f"set GEMINI_MODEL_NAME={successor}"
    if model in (settings.gemini_model_name, *followed(settings, known)) and settings.gemini_model_follows:
        return f"the worker switches by itself when Google shuts the model down; to switch now, {change}"
    return change
