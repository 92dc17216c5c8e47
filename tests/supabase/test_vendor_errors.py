"""Each vendor's errors are translated in one place, by class and code, never by text."""

from __future__ import annotations

import httpx
import pytest
import storage3.exceptions
from postgrest import APIError

from worker.errors import GenerationError, Misconfigured, QueueRefused, QueueUnavailable
from worker.supabase import queue, storage
from worker.supabase.rpc_errors import call_error

DATABASE = [
    ("PT400", QueueRefused),
    ("PT404", QueueRefused),
    ("PT409", QueueRefused),
    ("22P02", QueueRefused),
    ("23505", QueueRefused),
    ("42883", Misconfigured),
    ("PGRST202", Misconfigured),
    ("PGRST203", Misconfigured),
    ("PGRST106", Misconfigured),
    ("PGRST300", Misconfigured),
    ("42501", Misconfigured),
    ("PGRST301", Misconfigured),
    ("PGRST302", Misconfigured),
    ("PGRST001", QueueUnavailable),
    ("PGRST003", QueueUnavailable),
    ("08006", QueueUnavailable),
    ("40001", QueueUnavailable),
    ("40P01", QueueUnavailable),
    ("53300", QueueUnavailable),
    ("55P03", QueueUnavailable),
    ("57014", QueueUnavailable),
    ("57P01", QueueUnavailable),
    ("SUP", QueueUnavailable),
    (502, QueueUnavailable),
    (500, QueueUnavailable),
    (None, QueueUnavailable),
]


@pytest.mark.parametrize(("code", "expected"), DATABASE)
def test_each_database_error_has_one_meaning(code: str | int | None, expected: type[GenerationError]) -> None:
    """By SQLSTATE class, PostgREST code or bare HTTP status."""
    error = APIError({"code": code, "message": "said", "details": "reason", "hint": "fix"})
    with pytest.raises(expected), queue.translated("some_function"):
        raise error


@pytest.mark.parametrize(("code", "status"), [("22P02", 400), ("22003", 400), ("23514", 500)])
def test_data_that_the_database_cannot_take_are_the_callers_mistake(code: str, status: int) -> None:
    """400 says that another call with other data works, 500 that the operator has to look."""
    error = call_error(code, "said", None, None, "f")
    assert isinstance(error, QueueRefused)
    assert error.status == status


def test_a_refusal_keeps_what_the_database_said() -> None:
    """Status, reason, message and hint of a PTnnn reach the caller."""
    refused = call_error("PT409", "already used", "idempotency_key_reused", "use a new key", "f")
    assert isinstance(refused, QueueRefused)
    told = (refused.status, refused.code, refused.message, refused.hint)
    assert told == (409, "idempotency_key_reused", "already used", "use a new key")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("401", Misconfigured),
        ("403", Misconfigured),
        ("404", Misconfigured),
        ("413", Misconfigured),
        ("415", Misconfigured),
        ("409", QueueUnavailable),
        ("429", QueueUnavailable),
        ("500", QueueUnavailable),
    ],
)
def test_each_storage_error_has_one_meaning(status: str, expected: type[GenerationError]) -> None:
    """By the status in its body."""
    error = storage3.exceptions.StorageApiError("said", "code", status)
    with pytest.raises(expected), storage.translated("upload"):
        raise error


def _http_errors() -> list[type[httpx.HTTPError]]:
    found: list[type[httpx.HTTPError]] = []
    waiting: list[type[httpx.HTTPError]] = [httpx.HTTPError]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting.extend(kind.__subclasses__())
    return found


@pytest.mark.parametrize("kind", _http_errors(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("adapter", [queue, storage], ids=["queue", "storage"])
def test_every_transport_error_is_unavailable(kind: type[httpx.HTTPError], adapter: object) -> None:
    """Whatever exception the HTTP client has or will have, it means that Supabase did not answer."""
    if issubclass(kind, httpx.HTTPStatusError):
        request = httpx.Request("GET", "http://127.0.0.1/")
        error: Exception = kind("said", request=request, response=httpx.Response(500, request=request))
    else:
        error = kind("said")
    with pytest.raises(QueueUnavailable), adapter.translated("something"):  # type: ignore[attr-defined]
        raise error
