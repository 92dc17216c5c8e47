"""The logs: one record per event, as Cloud Logging reads it or as a person does."""

from __future__ import annotations

import io
import json
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker import log

ON_CLOUD_RUN = {
    "K_SERVICE": "generation-worker",
    "K_REVISION": "generation-worker-00007-abc",
    "GOOGLE_CLOUD_PROJECT": "my-photos-4711",
}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


pytestmark = pytest.mark.usefixtures("restored_logging")


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    """The logged JSON records, without their times."""
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    for entry in found:
        assert entry.pop("time").endswith("+00:00")
    return found


def test_json_on_cloud_run() -> None:
    """One JSON object a line: severity, message, its own fields, and what it is looked up by as labels."""
    stream = io.StringIO()
    log.set_up(ON_CLOUD_RUN, stream)
    with log.bound(run="r1"), log.bound(job=7, batch="b1"):
        log.event("job_failed", level="warning", attempt=2)
    log.event("run_finished")
    assert entries(stream) == [
        {
            "severity": "WARNING",
            "message": "job_failed",
            "attempt": 2,
            "run": "r1",
            "job": 7,
            "batch": "b1",
            "logger": "worker",
            "logging.googleapis.com/labels": {"run": "r1", "job": "7", "batch": "b1"},
        },
        {"severity": "INFO", "message": "run_finished", "logger": "worker"},
    ]


def test_json_names_the_trace() -> None:
    """Events of a request carry its trace in the form that links them to the request's own record."""
    stream = io.StringIO()
    log.set_up(ON_CLOUD_RUN, stream)
    with log.bound(trace=TRACE, span="00f067aa0ba902b7", sampled=True):
        log.event("run_finished")
    (entry,) = entries(stream)
    assert entry["logging.googleapis.com/trace"] == f"projects/my-photos-4711/traces/{TRACE}"
    assert entry["logging.googleapis.com/spanId"] == "00f067aa0ba902b7"
    assert entry["logging.googleapis.com/trace_sampled"] is True
    assert not {"trace", "span", "sampled"} & set(entry)


def test_an_error_has_the_fields_of_error_reporting() -> None:
    """Type, service, place and traceback."""
    stream = io.StringIO()
    log.set_up(ON_CLOUD_RUN, stream)
    log.event("misconfigured", level="error", code="key_invalid")
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        log.event("job_crashed", level="error", exc_info=True)
    first, second = entries(stream)
    for entry in (first, second):
        assert entry["@type"].endswith("ReportedErrorEvent")
        assert entry["serviceContext"] == {
            "service": "generation-worker",
            "version": "generation-worker-00007-abc",
        }
        place = entry["context"]["reportLocation"]
        assert place["filePath"] == __file__
        assert place["functionName"] == "test_an_error_has_the_fields_of_error_reporting"
    assert "stack_trace" not in first
    assert second["stack_trace"].startswith("Traceback (most recent call last)")
    assert second["stack_trace"].endswith("RuntimeError: boom")


def test_what_is_no_error_is_not_reported() -> None:
    """Warnings stay out of Error Reporting: a quota is not a fault."""
    stream = io.StringIO()
    log.set_up(ON_CLOUD_RUN, stream)
    log.event("image_erred", level="warning")
    (entry,) = entries(stream)
    assert not {"@type", "serviceContext", "context"} & set(entry)


def test_a_readable_line_has_time_event_and_fields() -> None:
    """The severity from warnings on, and no trace."""
    stream = io.StringIO()
    log.set_up({}, stream)
    with log.bound(trace=TRACE):
        log.event("image_made", job=3, image=1)
        log.event("job_failed", level="warning", code="refused")
    made, failed = stream.getvalue().splitlines()
    assert made[20:] == " image_made job=3 image=1"
    assert failed[20:] == " warning job_failed code=refused"


def test_times_are_those_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are in UTC on any machine, and say so."""
    stream = io.StringIO()
    log.set_up({}, stream)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        log.event("image_made")
    time.tzset()
    told = datetime.strptime(stream.getvalue().split()[0], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - told) < timedelta(seconds=60)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings and errors are colored, unless NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = Terminal(), Terminal()
    log.set_up({}, coloured)
    log.event("job_failed", level="warning", job=3)
    assert "\x1b[33mwarning job_failed\x1b[0m job=3\n" in coloured.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    log.set_up({}, plain)
    log.event("job_failed", level="warning", job=3)
    assert "\x1b" not in plain.getvalue()


def test_other_libraries_are_quiet() -> None:
    """httpx logs every URL at INFO; only its warnings appear."""
    stream = io.StringIO()
    log.set_up({}, stream)
    logging.getLogger("httpx").info("HTTP Request: GET https://host/?token=canary")
    assert stream.getvalue() == ""
