"""A real browser, and the shop of docs/app.md in it."""

from tests.support.browser import window
from tests.support.shop import shop

__all__ = ["shop", "window"]
