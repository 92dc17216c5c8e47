"""A worker whose secrets are canaries."""

from tests.support.canaries import watched

__all__ = ["watched"]
