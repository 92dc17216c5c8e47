"""The findings of `check` about misspelled environment variables: unused ones that resemble a setting."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from difflib import SequenceMatcher

from worker.ops.finding import Finding
from worker.settings import InvalidSettings, OrderSettings, Settings

ALIKE = 0.87
"""Similarity of two names that differ by a typo: `MAXJOBS` and `MAX_JOBS` have 0.93."""


def misspelled_findings(env: Mapping[str, str]) -> list[Finding]:
    """A warning for each variable whose name resembles an unset setting. Does not read the values."""
    settings = _settings_read_from(env)
    unset = sorted(name for name in settings if not env.get(name))
    meant = {given: _meant(given, unset) for given in sorted(env) if given not in settings}
    return [
        Finding("settings", "warning", f"{given} is set, but not used", f"if you meant {name}, rename it")
        for given, name in meant.items()
        if name
    ]


def _meant(given: str, settings: list[str]) -> str | None:
    """The setting that a name resembles most: with a typo, or with a word missing."""
    words = given.split("_")
    alike = [(SequenceMatcher(None, given, name).ratio(), name) for name in settings if name[0] == given[0]]
    close = [
        (ratio, name)
        for ratio, name in alike
        if ratio >= ALIKE or (len(words) > 1 and set(words) < set(name.split("_")))
    ]
    return max(close)[1] if close else None


def _settings_read_from(env: Mapping[str, str]) -> set[str]:
    """The names of all variables that the two HTTP functions read."""
    recorded = _Recorded(env)
    with suppress(InvalidSettings):
        Settings.from_env(recorded, "worker")
    with suppress(InvalidSettings):
        OrderSettings.from_env(recorded)
    return recorded.asked


class _Recorded(dict[str, str]):
    """An environment that records the names that are read."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(env)
        self.asked: set[str] = set()

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        self.asked.add(name)
        return super().get(name, default)
