"""The boundary of every HTTP function: bodies that never end, callers that go away, odd texts."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from worker import log
from worker.http import response as answer
from worker.http.validation import RequestRefused


def _request(*messages: Message) -> Request:
    """A request whose body arrives as these messages, and then no more of it for ever."""
    waiting = list(messages)

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


async def _answer(request: Request) -> Response:
    async def produce() -> Response:
        return answer.answer(200, {"bytes": len(await answer.read_body(request, 100))})

    return await answer.guarded(request, produce)


async def test_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who stops sending holds a connection for a limited time: 408."""
    monkeypatch.setattr(answer, "BODY_SECONDS", 0.02)
    request = _request({"type": "http.request", "body": b"{", "more_body": True})
    assert (await _answer(request)).status_code == 408


async def test_caller_who_goes_away_is_no_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    """A connection closed within the body is neither a 5xx nor a traceback in the log."""
    with caplog.at_level(logging.INFO):
        response = await _answer(_request({"type": "http.disconnect"}))
    assert response.status_code == 400
    assert caplog.records == []


async def test_body_in_pieces_is_put_together() -> None:
    """Every piece counts, up to the limit exactly."""
    pieces = [{"type": "http.request", "body": b"x" * 50, "more_body": more} for more in (True, False)]
    assert json.loads(bytes((await _answer(_request(*pieces))).body)) == {"bytes": 100}


def test_any_text_can_be_answered() -> None:
    """Half a surrogate pair, which UTF-8 cannot carry, does not turn a refusal into a crash."""
    response = answer.error_answer(RequestRefused(400, "odd", "unknown field '\ud800'"), {})
    assert json.loads(bytes(response.body))["error"]["message"] == "unknown field '\ud800'"


async def test_cancellation_is_not_swallowed() -> None:
    """The boundary ends errors, not a cancelled task."""

    async def produce() -> Response:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await answer.guarded(_request(), produce)


async def test_long_messages_are_cut() -> None:
    """A message that quotes the request stays short, however much was sent."""

    async def refuse() -> Response:
        raise RequestRefused(400, "unknown_field", "x" * 501, "y" * 500)

    told = json.loads(bytes((await answer.guarded(_request(), refuse)).body))["error"]
    assert told["message"] == "x" * 499 + "…"
    assert told["hint"] == "y" * 500


async def test_what_is_logged_meanwhile_belongs_to_the_requests_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Events of a handler and its tasks have the request's trace; later events do not."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    request = _request()
    request.scope["headers"] = [(b"traceparent", f"00-{trace}-00f067aa0ba902b7-01".encode())]

    async def work() -> None:
        log.event("run_finished")

    async def produce() -> Response:
        await asyncio.create_task(work())
        raise RuntimeError("boom")

    with caplog.at_level(logging.INFO):
        await answer.guarded(request, produce)
        log.event("loop_ended")
    told = [(record.getMessage(), getattr(record, "trace", None)) for record in caplog.records]
    assert told == [("run_finished", trace), ("request_failed", trace), ("loop_ended", None)]
