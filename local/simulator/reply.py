"""One HTTP answer of the API, what the ledger calls it, and the answers that carry no image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from local.simulator import answers, exhausted
from local.simulator.faults import ERRORS, Answer
from local.simulator.ledger import Outcome
from local.simulator.order import Order

UNREADABLE = "Unable to process input image. Please retry or report in https://ai.google.dev/gemini-api/docs"
HTML = (
    b"<html>\n<head><title>502 Bad Gateway</title></head>\n<body><h1>502 Bad Gateway</h1></body>\n</html>\n"
)


@dataclass(frozen=True, slots=True)
class Reply:
    """Status and body (JSON value or bytes), and the ledger's outcome and detail."""

    status: int
    outcome: Outcome
    detail: str
    body: Any
    media_type: str = "application/json; charset=UTF-8"

    def content(self) -> bytes:
        """The body's bytes."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def failure(code: int, body: Any, detail: str) -> Reply:
    """An error by its HTTP code, given as a decoded JSON body."""
    outcome: Outcome = "5xx" if code >= 500 else "4xx"
    if code == 404:
        outcome = "404"
    return Reply(code, "429" if code == 429 else outcome, detail, body)


def invalid(message: str) -> Reply:
    """The 400 for a request that can't be served as it is."""
    return failure(400, answers.error(400, "INVALID_ARGUMENT", message), "INVALID_ARGUMENT")


def over_quota(shape: str, facts: exhausted.Exhausted) -> Reply:
    """The 429 in the given shape."""
    return failure(429, exhausted.body(shape, facts), shape)


def _ordered_error(answer: Answer) -> Reply:
    status, message = ERRORS.get(answer.code, ("UNKNOWN", "An error has occurred."))
    status = answer.status or status
    return failure(answer.code, answers.error(answer.code, status, answer.message or message), status)


def without_image(answer: Answer, model: str, order: Order) -> Reply:
    """The reply to an admitted call that gets no image, by the answer's kind."""
    facts = (model, order.prompt, order.photos)
    match answer.kind:
        case "error":
            return _ordered_error(answer)
        case "photo":
            return invalid(UNREADABLE)
        case "quota":
            limit = exhausted.Exhausted(model, answer.period, answer.limit, answer.retry_seconds)
            return over_quota(answer.shape, limit)
        case "html":
            return Reply(answer.code, "5xx", "html", HTML, "text/html")
        case "finish":
            return Reply(200, "refused", answer.reason, answers.finished(*facts, answer.reason))
        case "blocked":
            return Reply(200, "refused", answer.reason, answers.blocked(*facts, answer.reason))
        case "empty":
            return Reply(200, "no_image", "empty", {})
        case _:
            return Reply(200, "no_image", "text", answers.text(*facts, answer.text))
