"""What schemathesis cannot send: malformed bodies and requests, to the served functions."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.raw_http import Line, exchange
from tests.support.served import Target, check_refusal


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """An order of styles within styles."""
    return b'{"styles":' + opening * depth + b"1" + closing * depth + b"}"


BODIES = {
    "cut short": b'{"maxJobs": 1',
    "two values": b"{}{}",
    "trailing comma": b'{"maxJobs": 1,}',
    "single quotes": b"{'maxJobs': 1}",
    "a comment": b'{"maxJobs": 1 /* one */}',
    "an array": b"[1]",
    "a text": b'"x"',
    "null": b"null",
    "a name twice": b'{"dryRun": true, "dryRun": false}',
    "NaN": b'{"maxJobs": NaN}',
    "Infinity": b'{"maxJobs": -Infinity}',
    "a number beyond doubles": b'{"maxJobs": 1e400}',
    "4 000 digits": b'{"numImagesPerExample": ' + b"9" * 4000 + b"}",
    "60 000 digits": b'{"maxJobs": ' + b"9" * 60_000 + b"}",
    "60 000 decimals": b'{"maxJobs": 0.' + b"1" * 60_000 + b"}",
    "a large exponent": b'{"numImagesPerExample": 1e300}',
    "a tiny exponent": b'{"numImagesPerExample": 1e-99999999999}',
    "nested 900 deep": nested(900),
    "nested 1 000 deep": nested(1000),
    "nested 30 000 deep": nested(30_000),
    "objects 900 deep": nested(900, b'{"a":', b"}"),
    "objects 9 000 deep": nested(9000, b'{"a":', b"}"),
    "opened for ever": b"[" * 65_000,
    "invalid UTF-8": b'{"basePrompt": "\xff\xfe"}',
    "overlong UTF-8": b'{"basePrompt": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"basePrompt": "\xed\xa0\x80"}',
    "half of a surrogate pair": b'{"basePrompt": "\\ud800"}',
    "UTF-16": '{"dryRun": true}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "NUL bytes": b'{"basePrompt": "a\x00b"}',
    "an escaped NUL": b'{"basePrompt": "a\\u0000b"}',
    "an escaped NUL in a name": b'{"a\\u0000b": 1}',
    "nothing but NUL": b"\x00" * 100,
    "a name of 60 000 letters": b'{"' + b"x" * 60_000 + b'": 1}',
    "5 000 unknown names": json.dumps({f"n{i}": 1 for i in range(5000)}).encode(),
    "a prototype": b'{"__proto__": {"userId": "x"}}',
    "a form": b"maxJobs=1&dryRun=true",
    "XML": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
}


@pytest.mark.parametrize("body", BODIES)
def test_a_malformed_body_is_400_with_its_reason(target: Target, body: str) -> None:
    """Whatever is wrong with it."""
    check_refusal(target.post(BODIES[body], "Content-Type: application/json"), 400)


@pytest.mark.parametrize(
    "kind", ["text/html", "application/xml", "multipart/form-data; boundary=x", "\x01", "/"]
)
def test_a_body_that_is_not_declared_as_json_is_415(target: Target, kind: str) -> None:
    """The content type decides."""
    check_refusal(target.post(b"{}", f"Content-Type: {kind}"), 415)


@pytest.mark.parametrize(
    "method",
    ["TRACE", "CONNECT", "PROPFIND", "post", "PRI", "M" * 3000, "GET", "PUT", "PATCH", "DELETE", "HEAD"],
)
def test_an_unsupported_method_is_405_and_does_nothing(target: Target, method: str) -> None:
    """Unknown methods are included."""
    check_refusal(exchange(target.url, target.head(f"{method} / HTTP/1.1")), 405)


@pytest.mark.parametrize(
    "path",
    [
        "//", "/..", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/.%00./", "/%00", "/%ff", "/%",
        "/;x", "/healthz/", "/HEALTHZ", "/\\", "/" + "a" * 60_000, "/" + "a/" * 20_000, "/" + "%41" * 20_000,
        "*", "http://elsewhere.example/", "http://[::1", "/robots.txt", "/.env", "/main.py", "/\x7f", "/é",
    ],
)  # fmt: skip
def test_an_unknown_path_is_404_and_reads_no_file_or_host(target: Target, path: str) -> None:
    """A path that is not valid HTTP is refused by the server."""
    check_refusal(exchange(target.url, target.head(f"POST {path} HTTP/1.1")), 400, 404)


REQUESTS: dict[str, Callable[[Target], bytes]] = {
    "a TLS greeting": lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500 + b"\r\n\r\n",
    "HTTP/0.9": lambda _: b"GET /\r\n\r\n",
    "HTTP/2 preface": lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no host": lambda _: b"POST / HTTP/1.1\r\n\r\n",
    "two hosts": lambda t: t.head("POST / HTTP/1.1", "Host: elsewhere.example"),
    "a NUL in a header": lambda t: t.head("POST / HTTP/1.1", "X-A: b\0"),
    "a bare CR in a header": lambda t: t.head("POST / HTTP/1.1", "Idempotency-Key: a\rX-B: c"),
    "a space before the colon": lambda t: t.head("POST / HTTP/1.1", "X-A : b"),
    "no name": lambda t: t.head("POST / HTTP/1.1", ": b"),
    "a header without a colon": lambda t: t.head("POST / HTTP/1.1", "X-A"),
    "a negative length": lambda t: t.head("POST / HTTP/1.1", "Content-Length: -1"),
    "a length that is none": lambda t: t.head("POST / HTTP/1.1", "Content-Length: 1e3"),
    "two lengths": lambda t: t.head("POST / HTTP/1.1", "Content-Length: 1", "Content-Length: 2"),
    "an unknown coding": lambda t: t.head("POST / HTTP/1.1", "Transfer-Encoding: gzip"),
    "chunks of no size": lambda t: t.head("POST / HTTP/1.1", "Transfer-Encoding: chunked") + b"zz\r\n\r\n",
    "chunks of a huge size": lambda t: (
        t.head("POST / HTTP/1.1", "Transfer-Encoding: chunked") + b"f" * 40 + b"\r\n\r\n"
    ),
    "a header of 20 MB": lambda t: t.head("POST / HTTP/1.1", "X-A: " + "b" * 20_000_000),
    "a path of 20 MB": lambda t: t.head(f"POST /{'a' * 20_000_000} HTTP/1.1"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_no_http(target: Target, name: str) -> None:
    """Anything that is not HTTP gets 400 or 404, or a closed connection; the queue sees none of it."""
    reply = exchange(target.url, REQUESTS[name](target))
    if reply.raw:
        check_refusal(reply, 400, 404, 405)


@pytest.mark.parametrize(
    "header", ["X-A", "Authorization", "X-Worker-Secret", "Cookie", "Origin", "Idempotency-Key"]
)
def test_a_header_of_50_000_characters_breaks_nothing(target: Target, header: str) -> None:
    """Such a header is no valid credential, key or origin."""
    lines = [
        "POST / HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"{header}: Bearer ey{'a' * 50_000}.b.c",
        "Content-Length: 2",
    ]
    check_refusal(exchange(target.url, "\r\n".join([*lines, "", "{}"]).encode()), 401)


def test_five_thousand_headers_are_handled_like_five(target: Target) -> None:
    """The headers are read, or the request is refused."""
    reply = exchange(
        target.url,
        target.head("POST / HTTP/1.1", "Content-Length: 1", *[f"X-{i}: 1" for i in range(5000)]),
        b"{",
    )
    check_refusal(reply, 400)


@pytest.mark.parametrize(
    "header", ["Origin", "Idempotency-Key", "Access-Control-Request-Headers", "X-Forwarded-Host"]
)
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r\n ", "\r", "%0d%0a", "\\r\\n", "\u560d\u560a"])
def test_nothing_from_a_request_becomes_a_response_header(target: Target, header: str, end: str) -> None:
    """Line breaks included."""
    reply = exchange(target.url, target.head("OPTIONS / HTTP/1.1", f"{header}: a{end}Set-Cookie: injected=1"))
    assert reply.status in (204, 400, 405)
    assert "injected" not in reply.raw.decode("latin-1")


def test_a_socket_that_nobody_offers(target: Target) -> None:
    """A request that asks to become a WebSocket is answered as if it had not asked."""
    asks = ["Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    lines = ["POST / HTTP/1.1", "Host: localhost", "Connection: Upgrade, close", *asks]
    check_refusal(exchange(target.url, "\r\n".join([*lines, "", ""]).encode()), 401)


def test_pipelined_requests_do_not_mix(target: Target) -> None:
    """A second request hidden in the first one's body stays a body: length and chunks cannot disagree."""
    hidden = b"POST /smuggled HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    chunks = b"0\r\n\r\n"
    both = target.head(
        "POST / HTTP/1.1", f"Content-Length: {len(chunks + hidden)}", "Transfer-Encoding: chunked"
    )
    reply = exchange(target.url, both, chunks, hidden)
    assert reply.raw.count(b"HTTP/1.1 ") == 1
    assert b"not_found" not in reply.raw


def test_a_connection_that_closes_early_causes_no_error(target: Target) -> None:
    """Within head or body."""
    request = target.head("POST / HTTP/1.1", "Content-Length: 100") + b"{" * 50
    for length in range(1, len(request), 7):
        with Line(target.url) as line:
            line.send(request[:length])
    check_refusal(target.post(b"["), 400)
