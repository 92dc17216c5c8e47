"""A fixture: a worker whose secrets are marked texts that a test can search for."""

from tests.support.canaries import watched

__all__ = ["watched"]
