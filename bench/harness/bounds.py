"""Limits of options, so that an impossible value fails before any database is filled."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

from worker.cli import arguments


def whole(least: int, most: int = 1_000_000, step: int = 1) -> Callable[[str], int]:
    """A parser of whole numbers within limits; with a `step`, of its multiples."""
    within = arguments.whole(least, most)

    def read(text: str) -> int:
        value = within(text)
        if value % step:
            raise ArgumentTypeError(f"a multiple of {step} is needed")
        return value

    return read


def above(least: float, most: float = 3600.0) -> Callable[[str], float]:
    """A parser of numbers above `least` and up to `most`; refuses NaN."""
    within = arguments.number(least, most)

    def read(text: str) -> float:
        value = within(text)
        if value == least:
            raise ArgumentTypeError(f"a number above {least:g} is needed")
        return value

    return read
