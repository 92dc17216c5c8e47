"""Floods and slow clients, against the served functions: reading, memory and waiting are limited."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.raw_http import Line
from tests.support.served import MIB, Target, check_refusal

pytestmark = pytest.mark.slow


def chunked(count: int) -> Iterator[bytes]:
    """A body of so many MiB in chunks, made as it is sent."""
    part = b"10000\r\n" + b" " * 65536 + b"\r\n"
    for _ in range(count * 16):
        yield part


@pytest.mark.parametrize(
    "form", ["Content-Length: 100000000000", "Content-Length: 268435456", "Transfer-Encoding: chunked"]
)
def test_a_body_of_256_mib_is_refused_with_413_and_not_kept_in_memory(target: Target, form: str) -> None:
    """However its length is announced, no more is read than the limit."""
    target.post(b"{}")
    before = target.memory()
    with Line(target.url) as line:
        line.send(target.head("POST / HTTP/1.1", form))
        parts = chunked(256) if "chunked" in form else (b" " * 65536 for _ in range(256 * 16))
        sent = line.send_all(parts)
        reply = line.reply()
    if reply.raw:  # else what we went on sending made the connection break before it could be read
        check_refusal(reply, 413)
    assert sent < target.max_bytes + 16 * MIB
    assert target.memory() - before < 16 * MIB


def test_too_much_by_a_byte(target: Target) -> None:
    """One byte above the limit is 413; the limit itself is accepted."""
    check_refusal(target.post(b" " * (target.max_bytes - 5) + b"[]   "), 400)
    check_refusal(target.post(b" " * (target.max_bytes - 4) + b"[]   "), 413)


def test_many_large_bodies_at_once(target: Target) -> None:
    """Bodies as large as they may be, full of small values and eight at a time, cost memory in proportion."""
    body = b'{"styles":[' + b"[],".join([b""] * ((target.max_bytes - 64) // 3)) + b"1]}"
    before = target.memory()
    with ThreadPoolExecutor(8) as pool:
        for reply in pool.map(target.post, [body] * 24):
            check_refusal(reply, 400, 408)  # 408 where the machine is too busy to take it in 15 s
    assert target.memory() - before < 128 * MIB


def test_a_body_that_stops_is_answered_after_15_seconds(target: Target) -> None:
    """Meanwhile other callers are served."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Line(target.url)) for _ in range(40)]
        for line in slow:
            line.send(target.head("POST / HTTP/1.1", "Content-Length: 100"), b"{")
        check_refusal(target.post(b"["), 400)
        for line in slow:
            check_refusal(line.reply(), 408)
