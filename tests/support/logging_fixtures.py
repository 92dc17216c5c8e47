"""Tests that set up the log leave it as it was."""

import contextlib
import logging
from collections.abc import Iterator

import pytest

from worker import log


@contextlib.contextmanager
def logging_restored() -> Iterator[None]:
    """Puts the root logger's handlers and both levels back."""
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, log.logger.level
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        log.logger.setLevel(own)


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Puts the root logger's handlers and both levels back."""
    with logging_restored():
        yield
