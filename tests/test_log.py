"""The logs: one record per event, as Cloud Logging reads it or as a person does."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from worker import log


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Leaves the root logger as it was."""
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, log.logger.level
    yield
    root.handlers, root.level = handlers, level
    log.logger.setLevel(own)


def test_json_on_cloud_run() -> None:
    """One JSON object a line with severity, message and the fields bound around the event."""
    stream = io.StringIO()
    log.set_up({"K_SERVICE": "generation-worker"}, stream)
    with log.bound(run="r1"):
        log.event("job_failed", level="warning", job=7)
    log.event("run_finished")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first == {
        "severity": "WARNING",
        "message": "job_failed",
        "logger": "worker",
        "run": "r1",
        "job": 7,
    }
    assert "run" not in second


def test_a_traceback_stays_on_its_line() -> None:
    """An unexpected error keeps its traceback without breaking the one-line-one-record rule."""
    stream = io.StringIO()
    log.set_up({"LOG_FORMAT": "json"}, stream)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        log.event("job_crashed", level="error", exc_info=True)
    (line,) = stream.getvalue().splitlines()
    assert "RuntimeError: boom" in json.loads(line)["stack_trace"]


def test_lines_for_people() -> None:
    """On a terminal: time, event, fields."""
    stream = io.StringIO()
    log.set_up({}, stream)
    log.event("image_made", job=3, image=1)
    assert stream.getvalue().endswith(" image_made job=3 image=1\n")


def test_other_libraries_are_quiet() -> None:
    """httpx tells every URL at INFO; only its warnings come through."""
    stream = io.StringIO()
    log.set_up({}, stream)
    logging.getLogger("httpx").info("HTTP Request: GET https://host/?token=canary")
    assert stream.getvalue() == ""
