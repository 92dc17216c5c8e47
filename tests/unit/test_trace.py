"""The trace of a request, read from its headers."""

from __future__ import annotations

import pytest

from worker.http.trace import trace_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
W3C = f"00-{TRACE}-{SPAN}-01"
GOOGLE = "105445aa7843bc8bf206b12000100000/1;o=1"


def test_traceparent_gives_trace_span_and_sampling() -> None:
    """A later version of the header may append fields."""
    assert trace_of({"traceparent": W3C}) == {"trace": TRACE, "span": SPAN, "sampled": True}
    assert trace_of({"traceparent": f"00-{TRACE}-{SPAN}-00"})["sampled"] is False
    assert trace_of({"traceparent": f"cc-{TRACE}-{SPAN}-01-more"})["trace"] == TRACE


def test_googles_trace_header_counts_spans_in_decimal() -> None:
    """All but the trace id may be missing."""
    assert trace_of({"x-cloud-trace-context": GOOGLE}) == {
        "trace": "105445aa7843bc8bf206b12000100000",
        "span": "0000000000000001",
        "sampled": True,
    }
    assert trace_of({"x-cloud-trace-context": TRACE}) == {"trace": TRACE}


def test_traceparent_takes_precedence_over_googles_header() -> None:
    """Cloud Run sends both."""
    assert trace_of({"traceparent": W3C, "x-cloud-trace-context": GOOGLE})["trace"] == TRACE


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00-xyz",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"{W3C}\n{W3C}",
        "0" * 32,
        f"{TRACE}/x",
        f"{TRACE}/{'9' * 21}",
    ],
)
def test_what_is_malformed_is_no_trace(value: str) -> None:
    """A header that anybody may send adds nothing to the log unless it is well formed."""
    assert trace_of({"traceparent": value, "x-cloud-trace-context": value}) == {}


def test_a_span_out_of_range_is_left_out() -> None:
    """A span that is no 64-bit number is not told; its trace is."""
    assert trace_of({"x-cloud-trace-context": f"{TRACE}/{2**64}"}) == {"trace": TRACE}
