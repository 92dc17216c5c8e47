"""A photo host with real TLS."""

from tests.support.photo_host import authority, world

__all__ = ["authority", "world"]
