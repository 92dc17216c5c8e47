"""A text that is not shown by accident: not in a log, a traceback or a representation."""

from __future__ import annotations


class Secret:
    """A text that shows itself only when asked to; falsy when empty."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__
