"""Handles a model that Google has retired: records its successor and tells the operator what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from worker.common.deadline import Within
from worker.errors import GenerationError
from worker.gemini.models import KnownModels
from worker.supabase.queue import Database

LIST_SECONDS = 10.0


class Lister(Protocol):
    """Lists the models that Google offers; raises a GenerationError."""

    async def models(self, timeout_seconds: float) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class ChangeOver:
    """The successor model and a note with both prices; both None if there is no successor."""

    successor: str | None
    note: str | None


async def retire(database: Database, model: str, instead: str | None, within: Within) -> ChangeOver:
    """Record that Google answered 404 for `model`; `instead` is the fallback the operator configured."""
    params = {"p_model": model, "p_successor": instead}
    answer = await database.rpc("retire_generation_model", params, within)
    return ChangeOver(answer["successor"], answer["note"])


async def known_models(database: Database, within: Within = LIST_SECONDS) -> KnownModels:
    """The models that the database knows; none if it does not answer."""
    try:
        return KnownModels(await database.rpc("generation_models", {}, within))
    except GenerationError:
        return KnownModels(None)


async def listed_models(gemini: Lister, seconds: float = LIST_SECONDS) -> frozenset[str]:
    """The models that Google lists; none if it does not answer."""
    try:
        return await gemini.models(seconds)
    except GenerationError:
        return frozenset()


async def hint(database: Database, gemini: Lister, model: str, within: Within, seconds: float) -> str:
    """Advice to the operator about a retired model: an available model and its price."""
    known = await known_models(database, within)
    return hint_of(known, model, await listed_models(gemini, seconds))


def hint_of(known: KnownModels, model: str, alive: frozenset[str]) -> str:
    """The advice of `hint`, from the known models and those that Google lists as `alive`."""
    instead = known.instead_of(model, alive)
    if instead is None:
        return "Set GEMINI_MODEL_NAME to an available image model: see https://ai.google.dev/gemini-api/docs/models."
    prices = known.costs(*(name for name in (instead, model) if known.price(name)))
    return f"Set GEMINI_MODEL_NAME={instead}, which is available{f'; {prices}' if prices else ''}."
