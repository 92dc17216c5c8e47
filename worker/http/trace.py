"""Reads a request's trace from its headers, for the log.

W3C Trace Context (https://www.w3.org/TR/trace-context/) takes precedence over Google's older header
(https://cloud.google.com/trace/docs/trace-context).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII)
CLOUD_TRACE_CONTEXT = re.compile(r"([0-9a-f]{32})(?:/(\d{1,20}))?(?:;o=(\d))?", re.ASCII)
NO_ID = re.compile(r"0+")


def trace_of(headers: Mapping[str, str]) -> dict[str, Any]:
    """`{trace, span, sampled}`, each only if the headers have it; ids in hex; ignores malformed headers."""
    w3c = TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
    if w3c and not w3c[0].startswith("ff") and not NO_ID.fullmatch(w3c[1]) and not NO_ID.fullmatch(w3c[2]):
        return {"trace": w3c[1], "span": w3c[2], "sampled": bool(int(w3c[3], 16) & 1)}
    google = CLOUD_TRACE_CONTEXT.fullmatch(headers.get("x-cloud-trace-context", "").strip())
    if not google or NO_ID.fullmatch(google[1]):
        return {}
    span = int(google[2] or 0)
    known = {"span": f"{span:016x}"} if 0 < span < 2**64 else {}
    return {"trace": google[1], **known, **({"sampled": google[3] == "1"} if google[3] else {})}
