"""Reads HTTP/1.1 messages between a worker and the stack, and derives what the worker is doing."""

from __future__ import annotations

import asyncio
import re

REQUEST_LINE = re.compile(rb"(\w+) /(\S*) HTTP/1\.1\r\n")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
ENDED = re.compile(rb'"outcome": ?"(?:completed|failed)"')
FUNCTIONS = {
    b"claim_generation_jobs": "claiming",
    b"take_start_slots": "taking slots",
    b"report_rate_limit": "reporting a 429",
    b"report_storage": "reporting a refusal of Storage",
    b"record_generated_photo": "recording",
    b"record_failed_image": "giving up",
    b"finish_generation_run": "finishing",
}


def phase_of(request: bytes) -> str:
    """What the sender of this request is doing; settling ended jobs also updates their batches."""
    line = REQUEST_LINE.match(request)
    method, path = (line[1], line[2]) if line else (b"", b"")
    if path.startswith(b"rest/v1/rpc/settle_generation_jobs"):
        return "rolling up" if ENDED.search(request) else "settling"
    if path.startswith(b"rest/v1/rpc/"):
        return FUNCTIONS.get(path.removeprefix(b"rest/v1/rpc/").split(b"?")[0], "asking")
    if method == b"DELETE":
        return "removing"
    if path.startswith(b"storage/v1/object/generated-photos/"):
        return "uploading"
    return "looking for objects" if b"generated-photos" in path else "fetching photos"


def path_of(request: bytes) -> str:
    """The path and query of a request, without the leading slash."""
    line = REQUEST_LINE.match(request)
    return line[2].decode() if line else ""


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """Read one HTTP/1.1 message, with a content length or in chunks. Raises EOFError and OSError."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if b"\r\ntransfer-encoding: chunked" in lower:
        body = b""
        while True:
            line = await reader.readuntil(b"\r\n")
            body += line + await reader.readexactly(int(line.split(b";")[0], 16) + 2)
            if int(line.split(b";")[0], 16) == 0:
                return head + body
    length = LENGTH.search(lower)
    return head + (await reader.readexactly(int(length[1])) if length else b"")
