"""When Google does not have a model any more: which one to go on with, and what an operator can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from worker.deadline import Within
from worker.errors import GenerationError
from worker.gemini.models import KnownModels
from worker.supabase.queue import Database

LIST_SECONDS = 10.0


class Lister(Protocol):
    """What asks Google which models there are; raises a GenerationError."""

    async def models(self, timeout_seconds: float) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class ChangeOver:
    """The model to go on with, and both prices in words; nothing where there is no such model."""

    successor: str | None
    note: str | None


async def retire(database: Database, model: str, instead: str | None, within: Within) -> ChangeOver:
    """Remember that Google answered 404 for `model`; `instead` is what the operator named for this case."""
    params = {"p_model": model, "p_successor": instead}
    answer = await database.rpc("retire_generation_model", params, within)
    return ChangeOver(answer["successor"], answer["note"])


async def known_models(database: Database, within: Within = LIST_SECONDS) -> KnownModels:
    """What the database knows of the models: nothing if it does not answer."""
    try:
        return KnownModels(await database.rpc("generation_models", {}, within))
    except GenerationError:
        return KnownModels(None)


async def listed_models(gemini: Lister, seconds: float = LIST_SECONDS) -> frozenset[str]:
    """The models that Google lists: none if it does not answer."""
    try:
        return await gemini.models(seconds)
    except GenerationError:
        return frozenset()


async def hint(database: Database, gemini: Lister, model: str, within: Within, seconds: float) -> str:
    """What an operator can do about a model that is gone: a model that Google has, and its price."""
    known = await known_models(database, within)
    return hint_of(known, model, await listed_models(gemini, seconds))


def hint_of(known: KnownModels, model: str, alive: frozenset[str]) -> str:
    """The same, of what is known and what Google lists."""
    instead = known.instead_of(model, alive)
    if instead is None:
        return "Set GEMINI_MODEL_NAME to an image model that Google has: https://ai.google.dev/gemini-api/docs/models."
    prices = known.costs(*(name for name in (instead, model) if known.price(name)))
    return f"Set GEMINI_MODEL_NAME={instead}, which Google has{f'; {prices}' if prices else ''}."
