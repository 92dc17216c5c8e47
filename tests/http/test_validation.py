"""What a body may contain: every value of every field, and texts that only look like JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.http.validation import RequestRefused, parse_object, parse_run
from worker.run.request import RunRequest

JSON = "application/json"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
field_values = st.one_of(json_values, st.integers(-2, 1002), st.floats(0, 300), st.booleans())
bodies = st.one_of(
    json_values,
    st.dictionaries(st.sampled_from(["maxJobs", "budgetSeconds", "dryRun", "maxjobs"]), field_values),
)


def _refusal(body: bytes, content_type: str = JSON) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        parse_run(body, content_type, 240.0)
    return caught.value


@pytest.mark.parametrize("body", [b"", b"  \r\n"])
@pytest.mark.parametrize("content_type", ["", JSON, "application/octet-stream", "text/plain"])
def test_empty_body_asks_for_the_defaults(body: bytes, content_type: str) -> None:
    """Cloud Scheduler and pg_net send an empty body, with any content type."""
    assert parse_run(body, content_type, 240.0) == RunRequest(None, None, dry_run=False)


def test_every_field_is_read() -> None:
    """The three fields, at both ends of their ranges."""
    full = parse_run(b'{"maxJobs": 1000, "budgetSeconds": 240, "dryRun": true}', JSON, 240.0)
    assert full == RunRequest(1000, 240.0, dry_run=True)
    least = parse_run(b'{"maxJobs": 10, "budgetSeconds": 150.0, "dryRun": false}', JSON, 240.0)
    assert least == RunRequest(10, 150.0, dry_run=False)
    look = parse_run(b'{"maxJobs": 1, "dryRun": true}', JSON, 240.0)
    assert look == RunRequest(1, dry_run=True)
    assert parse_run(b"{}", JSON, 240.0) == RunRequest()
    assert parse_run(b'{"maxJobs": 1e2, "budgetSeconds": 150}', JSON, 240.0) == RunRequest(100, 150.0)


def test_where_invocations_are_short_a_run_may_have_all_their_time() -> None:
    """The least time a caller may ask for is never above the invocation timeout."""
    assert parse_run(b'{"budgetSeconds": 20}', JSON, 20.0) == RunRequest(budget_seconds=20.0)


@pytest.mark.parametrize(
    "content_type", ["", "application/octet-stream", "Application/JSON; charset=utf-8", "a/b+json"]
)
def test_content_types_that_carry_json(content_type: str) -> None:
    """A body is read under JSON's types and under the one Cloud Scheduler gives to any body."""
    assert parse_run(b'{"dryRun": true}', content_type, 240.0).dry_run


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_other_content_types_are_refused_with_the_fix(content_type: str) -> None:
    """A body under a page's or form's type is 415, naming the type to send."""
    refused = _refusal(b'{"dryRun": true}', content_type)
    assert refused.status == 415
    assert "application/json" in str(refused.hint)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "maxJobs",
            ["0", "9", "-1", "1001", "true", "false", "null", '"5"', "10.5", "1e4", "[]", "{}", "9" * 400],
        ),
        ("budgetSeconds", ["0", "149.9", "240.1", "1e999", "true", "null", '"60"', "[1]", "-60", "9" * 400]),
        ("dryRun", ["0", "1", "null", '"true"', "[]"]),
        ("maxjobs", ["5"]),
        ("limit", ["5"]),
    ],
)
def test_wrong_value_names_its_field(name: str, values: list[str]) -> None:
    """Each wrong type, value or name is a 400 which names the field and says how to fix it."""
    for value in values:
        refused = _refusal(f'{{"{name}": {value}}}'.encode())
        assert refused.status == 400, value
        assert refused.hint
        assert name in refused.message or refused.code == "invalid_json", value


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nul",
        b"{'dryRun': true}",
        b'{"dryRun": true} {}',
        b"\xff\xfe{}",
        b'{"dryRun": NaN}',
        b'{"maxJobs": -Infinity}',
        b"[" * 65536,
        b'{"a":' * 13000,
        b'{"maxJobs": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """Broken, foreign and hostile bodies are 400 `invalid_json`; nothing of them is echoed."""
    refused = _refusal(body)
    assert (refused.status, refused.code) == (400, "invalid_json")
    assert len(refused.message) < 100


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"5", b"true"])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    """A body is an object or nothing; what orders photos is not answered with an example of a run."""
    refused = _refusal(body)
    assert refused.code == "invalid_request"
    assert "dryRun" not in str(refused.hint)


@pytest.mark.parametrize(
    "text", [r'{"a": "\u0000"}', r'{"a": ["x", {"b": "\ud800"}]}', r'{"\udc00": 1}', '{"a": [1e999]}']
)
def test_what_jsonb_cannot_hold_is_refused_here(text: str) -> None:
    """NUL, half a surrogate pair and infinity would fail on the way to Postgres as an error of ours."""
    with pytest.raises(RequestRefused) as caught:
        parse_object(text.encode(), JSON)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("body", [b'{"a": 1, "a": 1}', b'{"a": [{"b": 1, "c": 2, "\\u0062": 3}]}'])
def test_a_name_that_occurs_twice_is_refused(body: bytes) -> None:
    """At any depth, it would be unclear which of the two values was meant."""
    with pytest.raises(RequestRefused, match="occurs twice"):
        parse_object(body, JSON)


@pytest.mark.parametrize("part", [b"[],", b"{},", b"1,", b'"",'])
def test_too_many_values_are_refused(part: bytes) -> None:
    """A body with more values than any order has is refused; the limit itself passes."""
    with pytest.raises(RequestRefused, match="10000 names and values"):
        parse_object(b'{"styles": [' + part * 10_000 + b"1]}", JSON)
    parse_object(b'{"styles": [' + part * (10_000 - 4) + b"1]}", JSON)


def test_an_order_passes_unchanged() -> None:
    """Accepted values are passed on as they came, in any script."""
    order = {
        "basePrompt": "Ein Porträt 👩‍🎨\n",
        "exampleImages": [{"id": "1", "weight": 0.5}],
        "glasses": None,
    }
    assert parse_object(json.dumps(order, ensure_ascii=False).encode(), JSON) == order


@given(body=bodies)
def test_any_json_value_is_read_or_refused(body: Any) -> None:
    """Whatever JSON comes, the answer is a valid request or a 400, never another exception."""
    try:
        request = parse_run(json.dumps(body).encode(), JSON, 240.0)
    except RequestRefused as refused:
        assert refused.status == 400
        return
    assert request.max_jobs is None or 1 <= request.max_jobs <= 1000
    assert request.budget_seconds is None or 60 <= request.budget_seconds <= 240
    assert isinstance(request.dry_run, bool)


@given(body=st.binary(max_size=200), content_type=st.text(max_size=30))
def test_any_bytes_are_read_or_refused(body: bytes, content_type: str) -> None:
    """For any bytes and any content type, the result is a valid request or a 4xx."""
    try:
        parse_run(body, content_type, 240.0)
    except RequestRefused as refused:
        assert 400 <= refused.status < 500


@given(jobs=st.integers(10, 1000), seconds=st.floats(150, 240), dry=st.booleans())
def test_the_whole_range_is_reached(jobs: int, seconds: float, dry: bool) -> None:
    """Every allowed combination is accepted as it is."""
    body = json.dumps({"maxJobs": jobs, "budgetSeconds": seconds, "dryRun": dry}).encode()
    request = parse_run(body, JSON, 240.0)
    assert (request.max_jobs, request.dry_run) == (jobs, dry)
    assert request.budget_seconds is not None
    assert math.isclose(request.budget_seconds, seconds)
