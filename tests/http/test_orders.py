"""The enqueue endpoint: tokens, keys and orders passed on as they came, and browsers answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from worker.errors import QueueRefused, QueueUnavailable
from worker.http.orders import OrderFunction, take_order
from worker.http.validation import RequestRefused

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl-_"
SIGNED_IN = {"Authorization": f"Bearer {TOKEN}"}
ORDER = {"basePrompt": "a portrait", "exampleImages": [{"id": "1", "url": "https://photos.example/1.jpg"}]}
PAGE = "https://app.example"

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
json_values = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=9
)


class Queue:
    """The queue at the seam: remembers orders, answers with a batch or fails."""

    def __init__(self, failure: Exception | None = None, created: bool = True, jobs: int = 1) -> None:
        self.failure = failure
        self.batch = {"batchId": "b1", "jobIds": [1], "jobsEnqueued": jobs, "created": created}
        self.orders: list[tuple[Mapping[str, Any], str | None, str]] = []

    async def enqueue(
        self, request: Mapping[str, Any], idempotency_key: str | None, access_token: str
    ) -> Mapping[str, Any]:
        """The batch, or the failure."""
        self.orders.append((request, idempotency_key, access_token))
        if self.failure:
            raise self.failure
        return self.batch


def client(
    queue: Queue, origins: tuple[str, ...] = ("*",), unopened: Exception | None = None
) -> httpx.AsyncClient:
    """A client of the function; `unopened` is what opening it raises."""

    def open_function() -> OrderFunction:
        if unopened:
            raise unopened
        return OrderFunction(queue, origins)

    async def serve(request: Request) -> Response:
        return await take_order(request, open_function)

    methods = ["GET", "POST", "PUT", "OPTIONS"]
    app = Starlette(routes=[Route("/{path:path}", serve, methods=methods)])
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://orders", headers=SIGNED_IN)


def check_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Every error says success false, has the one error shape and can be read by a page."""
    assert answer.status_code == status
    assert list(answer.json()) == ["success", "error"]
    assert answer.json()["success"] is False
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    assert set(error) <= {"code", "message", "hint"}
    assert answer.headers["access-control-allow-origin"] == "*"
    return error


async def test_order_is_enqueued_as_its_caller() -> None:
    """Order, key and token go through untouched; 202 names the batch, and a repetition says it is one."""
    queue = Queue(jobs=2)
    async with client(queue) as http:
        answer = await http.post("/", json=ORDER, headers={"Idempotency-Key": " order-7 "})
    told = {"success": True, "batchId": "b1", "jobsEnqueued": 2, "message": "2 jobs enqueued"}
    assert (answer.status_code, answer.json()) == (202, told)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cache-control"] == "no-store"
    assert queue.orders == [(ORDER, "order-7", TOKEN)]
    async with client(Queue(created=False)) as http:
        repeated = await http.post("/", json=ORDER)
    assert (repeated.status_code, "before" in repeated.json()["message"]) == (202, True)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN} x",
        "Bearer null",
        "Bearer undefined",
        f"Bearer ey{'a' * 8187}.b.c",
    ],
)
async def test_caller_without_a_token_is_401(authorization: str) -> None:
    """Anything but a bearer token, including what faulty front ends send; the hint is to sign in."""
    queue = Queue()
    async with client(queue) as http:
        answer = await http.post("/", json=ORDER, headers={"Authorization": authorization})
    check_error(answer, 401, "not_signed_in")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert queue.orders == []


@pytest.mark.parametrize(
    "key", ["sb_publishable_abc", "sb_secret_abc", "sb_ey.J.x", "sb_a.b.c", f"sb_{TOKEN}"]
)
async def test_api_key_is_no_token(key: str) -> None:
    """Supabase's gateway would replace a bearer `sb_…` with the role of our key, so it is refused here."""
    queue = Queue()
    async with client(queue) as http:
        answer = await http.post("/", json=ORDER, headers={"Authorization": f"Bearer {key}"})
    check_error(answer, 401, "not_signed_in")
    assert queue.orders == []


@pytest.mark.parametrize("keys", [[""], ["x" * 201], ["a\tb"], ["schlüssel".encode("latin-1")], ["a", "b"]])
async def test_bad_idempotency_key_is_refused(keys: list[str | bytes]) -> None:
    """A key that is empty, too long, unprintable or given twice is 400; 200 characters are accepted."""
    queue = Queue()
    async with client(queue) as http:
        headers = [(b"Idempotency-Key", key if isinstance(key, bytes) else key.encode()) for key in keys]
        check_error(await http.post("/", json=ORDER, headers=headers), 400, "invalid_idempotency_key")
        assert (await http.post("/", json=ORDER, headers={"Idempotency-Key": "x" * 200})).status_code == 202
    assert [key for _, key, _ in queue.orders] == ["x" * 200]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429])
async def test_refusal_of_the_database_goes_through(status: int) -> None:
    """The caller gets the database's status, code, message and hint."""
    refusal = QueueRefused("key_reused", "this key had another order", status, "take a new key")
    async with client(Queue(refusal)) as http:
        error = check_error(await http.post("/", json=ORDER), status, "key_reused")
    assert error == {"code": "key_reused", "message": "this key had another order", "hint": "take a new key"}


async def test_refusal_never_looks_like_success() -> None:
    """A refusal with a status that is no error is an error of ours."""
    for status in (0, 200, 301, 999):
        async with client(Queue(QueueRefused("odd", "odd status", status))) as http:
            check_error(await http.post("/", json=ORDER), 500, "odd")


async def test_unreachable_queue_is_503() -> None:
    """Supabase out of reach is 503, and Retry-After can be read by a page."""
    async with client(Queue(QueueUnavailable("supabase_unreachable", "no connection"))) as http:
        answer = await http.post("/", json=ORDER)
    check_error(answer, 503, "supabase_unreachable")
    assert answer.headers["retry-after"] == "10"
    assert answer.headers["access-control-expose-headers"] == "Retry-After"


@pytest.mark.parametrize("unopened", [RequestRefused(500, "misconfigured", "incomplete"), ImportError("x")])
async def test_function_that_cannot_be_opened_answers_a_page_too(unopened: Exception) -> None:
    """Missing settings get an answer of the same form, with CORS headers."""
    async with client(Queue(), unopened=unopened) as http:
        answer = await http.post("/", json=ORDER)
    check_error(answer, 500, "internal" if isinstance(unopened, ImportError) else "misconfigured")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"basePrompt": "\\u0000"}'])
async def test_body_that_is_no_order_is_refused(body: bytes) -> None:
    """An order is a JSON object that can be stored; there is no default for it."""
    queue = Queue()
    async with client(queue) as http:
        answer = await http.post("/", content=body, headers={"Content-Type": "application/json"})
    check_error(answer, 400, answer.json()["error"]["code"])
    assert queue.orders == []


async def _stream(chunks: int) -> AsyncIterator[bytes]:
    for _ in range(chunks):
        yield b" " * 65536


async def test_order_of_more_than_a_mebibyte_is_refused() -> None:
    """1 MiB is read, more is 413 while it arrives."""
    order = json.dumps({"basePrompt": "x"}).encode()
    async with client(Queue()) as http:
        assert (await http.post("/", content=order.ljust(1024 * 1024))).status_code == 202
        check_error(await http.post("/", content=order.ljust(1024 * 1024 + 1)), 413, "body_too_large")
        answer = await http.post("/", content=_stream(100))
    check_error(answer, 413, "body_too_large")
    assert answer.headers["connection"] == "close"  # the rest of the body is not read


async def test_preflight_is_answered_without_a_token() -> None:
    """A browser asks first, without credentials; every header that supabase-js sends is allowed."""
    queue = Queue()
    async with client(queue) as http:
        http.headers.clear()
        answer = await http.options("/", headers={"Origin": PAGE, "Access-Control-Request-Method": "POST"})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "POST, OPTIONS"
    allowed = set(answer.headers["access-control-allow-headers"].split(", "))
    assert allowed == {"authorization", "content-type", "idempotency-key", "apikey", "x-client-info"}
    assert queue.orders == []


async def test_only_named_origins_may_read_answers() -> None:
    """The response repeats an allowed origin, and sets `Vary` for caches."""
    async with client(Queue(), (PAGE, "http://localhost:3000")) as http:
        for origin, allowed in ((PAGE, PAGE), ("https://evil.example", None), (f"{PAGE}.evil.example", None)):
            preflight = await http.options("/", headers={"Origin": origin})
            posted = await http.post("/", json=ORDER, headers={"Origin": origin})
            failed = await http.get("/", headers={"Origin": origin})
            assert preflight.status_code == (204 if allowed else 403)
            assert failed.status_code == 405
            for answer in (preflight, posted, failed):
                assert answer.headers.get("access-control-allow-origin") == allowed
                assert answer.headers["vary"] == "Origin"


async def test_other_paths_and_methods() -> None:
    """Orders are posted to `/`, nothing else is here."""
    async with client(Queue()) as http:
        check_error(await http.post("/orders", json=ORDER), 404, "not_found")
        answer = await http.get("/")
        check_error(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "POST, OPTIONS"


@settings(max_examples=60)
@given(body=json_values)
async def test_any_json_order_is_passed_on_or_refused(body: Any) -> None:
    """Whatever JSON is posted, it is handed on as it is or refused with a 400, never a 5xx."""
    queue = Queue()
    async with client(queue) as http:
        answer = await http.post("/", content=json.dumps(body).encode())
    if answer.status_code == 202:
        [(order, _, _)] = queue.orders
        json.dumps(order, ensure_ascii=False, allow_nan=False).encode()
        assert order == body
    else:
        check_error(answer, 400, answer.json()["error"]["code"])
