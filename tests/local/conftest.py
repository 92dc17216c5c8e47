"""A copy of the clone."""

from tests.support.clone import clone

__all__ = ["clone"]
