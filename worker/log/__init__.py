"""Structured logs. `from worker import log`, then `log.event(name, **fields)`."""

from worker.log.events import bound, event, logger, set_up

__all__ = ["bound", "event", "logger", "set_up"]
