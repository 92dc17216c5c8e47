"""The findings of `check` about variables that nothing reads, and that are named much like a setting."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from difflib import SequenceMatcher

from worker.ops.finding import Finding
from worker.settings import InvalidSettings, OrderSettings, Settings

ALIKE = 0.87
"""How alike two names are that differ by a slip of the finger: `MAXJOBS` and `MAX_JOBS` are 0.93."""


def misspelled_findings(env: Mapping[str, str]) -> list[Finding]:
    """A warning for each variable that resembles a setting which is not set. Values are not looked at."""
    settings = _settings_read_from(env)
    unset = sorted(name for name in settings if not env.get(name))
    meant = {given: _meant(given, unset) for given in sorted(env) if given not in settings}
    return [
        Finding(
            "settings", "warning", f"{given} is set, but nothing reads it", f"if you meant {name}, rename it"
        )
        for given, name in meant.items()
        if name
    ]


def _meant(given: str, settings: list[str]) -> str | None:
    """The setting that a name resembles most: a slip of the finger away, or with a word left out."""
    words = given.split("_")
    alike = [(SequenceMatcher(None, given, name).ratio(), name) for name in settings if name[0] == given[0]]
    close = [
        (ratio, name)
        for ratio, name in alike
        if ratio >= ALIKE or (len(words) > 1 and set(words) < set(name.split("_")))
    ]
    return max(close)[1] if close else None


def _settings_read_from(env: Mapping[str, str]) -> set[str]:
    """The names of all variables that the two functions ask for."""
    recorded = _Recorded(env)
    with suppress(InvalidSettings):
        Settings.from_env(recorded, "worker")
    with suppress(InvalidSettings):
        OrderSettings.from_env(recorded)
    return recorded.asked


class _Recorded(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(env)
        self.asked: set[str] = set()

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        self.asked.add(name)
        return super().get(name, default)
