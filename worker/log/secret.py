"""A string that does not appear in logs, tracebacks or `repr`."""

from __future__ import annotations


class Secret:
    """A string whose value only `reveal` returns; falsy if empty."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret value."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__
