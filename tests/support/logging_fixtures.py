"""Tests that set up the log leave it as it was."""

import logging
from collections.abc import Iterator

import pytest

from worker import log


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Puts the root logger's handlers and both levels back."""
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, log.logger.level
    yield
    root.handlers, root.level = handlers, level
    log.logger.setLevel(own)
