"""Formats log records for Cloud Logging and Error Reporting: one JSON object per line.

Fields: https://cloud.google.com/logging/docs/structured-logging and
https://cloud.google.com/error-reporting/docs/formatting-error-messages
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from worker.log.mask import Mask

FIELDS = ("levelname", "message")
NAMES = {"levelname": "severity", "exc_info": "stack_trace"}
LABELS = ("run", "job", "batch")
"""Fields that are also labels, for queries; a label's value must be a string."""

LABELS_FIELD = "logging.googleapis.com/labels"
TRACE_FIELDS = {"span": "logging.googleapis.com/spanId", "sampled": "logging.googleapis.com/trace_sampled"}
TRACE_FIELD = "logging.googleapis.com/trace"
REPORTED = "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"


class JsonLines(JsonFormatter):
    """A record as JSON: severity, message, labels, trace, own fields; for errors also what groups them."""

    def __init__(self, mask: Mask, env: Mapping[str, str]) -> None:
        super().__init__(FIELDS, rename_fields=NAMES, timestamp="time")
        self._mask = mask
        self._project = env.get("GOOGLE_CLOUD_PROJECT", "")
        self._service = {
            "service": env.get("K_SERVICE") or env.get("CLOUD_RUN_JOB") or "generation-worker",
            "version": env.get("K_REVISION") or env.get("CLOUD_RUN_EXECUTION") or "",
        }

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        return self._mask(super().format(record))

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Add the record's fields to `log_data`."""
        super().add_fields(log_data, record, message_dict)
        log_data["logger"] = record.name
        labels = {name: str(log_data[name]) for name in LABELS if name in log_data}
        if labels:
            log_data[LABELS_FIELD] = labels
        if "trace" in log_data:
            # Without the project, Cloud Logging cannot link the trace, but it can still be searched for.
            trace = log_data.pop("trace")
            log_data[TRACE_FIELD] = f"projects/{self._project}/traces/{trace}" if self._project else trace
        for name, known_as in TRACE_FIELDS.items():
            if name in log_data:
                log_data[known_as] = log_data.pop(name)
        if record.levelno >= logging.ERROR:
            log_data |= self._reported(record)

    def _reported(self, record: logging.LogRecord) -> dict[str, Any]:
        where = {
            "filePath": record.pathname,
            "lineNumber": record.lineno,
            "functionName": record.funcName,
        }
        return {
            "@type": REPORTED,
            "serviceContext": self._service,
            "context": {"reportLocation": where},
        }
