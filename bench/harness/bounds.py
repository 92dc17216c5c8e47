"""Bounds of what can be said on the command line, so that nothing is filled for a run that cannot be."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

from worker.cli import arguments


def whole(least: int, most: int = 1_000_000, step: int = 1) -> Callable[[str], int]:
    """Reads a whole number within bounds; with a `step`, a multiple of it."""
    within = arguments.whole(least, most)

    def read(text: str) -> int:
        value = within(text)
        if value % step:
            raise ArgumentTypeError(f"a multiple of {step} is needed")
        return value

    return read


def above(least: float, most: float = 3600.0) -> Callable[[str], float]:
    """Reads a number above the least, and not above the most; NaN is neither."""
    within = arguments.number(least, most)

    def read(text: str) -> float:
        value = within(text)
        if value == least:
            raise ArgumentTypeError(f"a number above {least:g} is needed")
        return value

    return read
