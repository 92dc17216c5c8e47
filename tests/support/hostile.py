"""What must not be fetched: URLs, Storage references, and addresses that a host may resolve to.

The tests of the worker and of the database read the same tables; a new attack belongs here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

USER = "7f0c2d4e-1111-4222-8333-444455556666"
VICTIM = "11111111-aaaa-4bbb-8ccc-dddddddddddd"
BUCKETS = ("uploads", "training-photos")

URLS: list[tuple[str, str]] = [
    (line.split()[0], line.split()[1])
    for line in Path(__file__).with_name("hostile_urls.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
"""The code that worker/photos/address.py must refuse it with, and the URL."""

UNSEEN_OR_LONG = [
    "https://example.com/a b.jpg",
    " https://example.com/",
    "https://example.com/ ",
    "https://exa\tmple.com/",
    "https://example.com/\r\nHost: evil",
    "https://example.com\n.local/",
    "https://example.com/\x00",
    "https://example.com/\x7f",
    "https://exa\u00admple.com/",
    "https://exa\u200bmple.com/",
    "https://example.com/\u202egpj.exe",
    "https://example.com/\u2028",
    "https://example.com\u00a0/",
    "https://example.com/\ud800",
    "https://example.com/" + "a" * 2048,
    "https://example.com/" + "ü" * 1000,
    "https://" + "a" * 64 + ".com/",
    "https://" + "a." * 130 + "com/",
    "https://" + "ü" * 70 + ".com/",
]
"""URLs that do not fit on a line of the table; all are `bad_url`."""

ADDRESSES = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "10.255.255.255", "100.64.0.1"),
    *(
        "100.127.255.255",
        "169.254.169.254",
        "169.254.170.2",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "192.0.0.8",
    ),
    *("192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1"),
    *("203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
    *("100.100.100.200", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
    *("::ffff:7f00:1", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::a00:1"),
    *("100::1", "2001::1", "2001:0:7f00:1::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1"),
    *("2002:7f00:1::", "2002:a9fe:a9fe::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254"),
    *("fe80::1", "fe80::1%eth0", "fe80::a9fe:a9fe%1", "fec0::1", "ff02::1", "ff05::2", "2606:4700::1111%lo"),
    *("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "", "example.com", "1.1.1.1\x00"),
]
"""What a resolver may say and nobody may connect to; some are no addresses at all."""

REFERENCES = [
    ("forbidden_bucket", "secrets/USER/a.jpg"),
    ("forbidden_bucket", "Uploads/USER/a.jpg"),
    ("forbidden_bucket", "uploads /USER/a.jpg"),
    ("forbidden_bucket", "object/uploads/USER/a.jpg"),
    ("foreign_photo", "uploads/VICTIM/a.jpg"),
    ("foreign_photo", "uploads/USERx/a.jpg"),
    ("foreign_photo", "uploads/ USER/a.jpg"),
    ("foreign_photo", "uploads/USER /a.jpg"),
    ("foreign_photo", "uploads/USER./a.jpg"),
    ("foreign_photo", "uploads/folder/USER/a.jpg"),
    ("foreign_photo", "uploads/USER\uff0f..\uff0fVICTIM/a.jpg"),
    ("foreign_photo", "uploads/USER\u2215..\u2215VICTIM/a.jpg"),
    ("foreign_photo", "uploads/\uff56ictim/a.jpg"),
    ("foreign_photo", "uploads/{USER,VICTIM}/a.jpg"),
    ("foreign_photo", "uploads/*/a.jpg"),
    ("foreign_photo", "uploads/USER;/VICTIM/a.jpg"),
    *(
        ("bad_reference", reference)
        for reference in (
            *("", "uploads", "uploads/", "uploads/USER", "uploads/USER/", "uploads//USER/a.jpg"),
            *("/uploads/USER/a.jpg", "//USER/a.jpg", "uploads/USER//a.jpg", "uploads/USER/a/"),
            *("uploads/USER/../VICTIM/a.jpg", "uploads/USER/./a.jpg", "uploads/USER/..", "uploads/USER/."),
            *("uploads/USER/ .. /a.jpg", "uploads/USER/.. /VICTIM/a.jpg", "uploads/USER/ /a.jpg"),
            *("uploads/../secrets/USER/a.jpg", "uploads/../../auth/v1/user", "../uploads/USER/a.jpg"),
            *("uploads/USER/%2e%2e/VICTIM/a.jpg", "uploads/USER/%2E./VICTIM/a.jpg", "uploads/USER%2fa.jpg"),
            *("uploads/USER/..%2fVICTIM/a.jpg", "uploads/USER/..%5cVICTIM/a.jpg", "uploads%2fUSER/a.jpg"),
            *("uploads/USER/%252e%252e/VICTIM/a.jpg", "uploads/USER/..%252fVICTIM/a.jpg"),
            *("uploads/USER/a%00.jpg", "uploads/USER/a.jpg%20"),
            *("uploads/USER/%c0%ae%c0%ae/VICTIM/a.jpg", "uploads/USER/%u002e%u002e/VICTIM/a.jpg"),
            *("uploads/USER\\..\\VICTIM\\a.jpg", "uploads\\VICTIM\\a.jpg", "uploads/USER/..\\VICTIM/a.jpg"),
            *("uploads/USER/a.jpg?download", "uploads/USER/?/../VICTIM/a.jpg", "uploads/USER/a.jpg#x"),
            *("uploads/USER/a\n.jpg", "uploads/USER/a\x00.jpg", "uploads/USER/a\u202e.jpg"),
            *("uploads/USER/a\u200b.jpg", "uploads/USER/a\u3000.jpg", "uploads/USER/" + "a" * 1024),
        )
    ),
]
"""The code of the refusal, and a reference that USER (or VICTIM) has to be put into."""


def references(user: str = USER, victim: str = VICTIM, bucket: str = "uploads") -> list[tuple[str, str]]:
    """The table with the names filled in."""
    return [
        (code, text.replace("USER", user).replace("VICTIM", victim).replace("uploads", bucket))
        for code, text in REFERENCES
    ]


_reached: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _reached is not None and event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        _reached.append(f"{event} {arguments[1:] if event != 'socket.getaddrinfo' else arguments}")


sys.addaudithook(_watch)


@contextmanager
def reached() -> Iterator[list[str]]:
    """Every connection begun and every name looked up by this process inside the block."""
    global _reached  # an audit hook is for ever, so it must be told when to listen
    found: list[str] = []
    _reached = found
    try:
        yield found
    finally:
        _reached = None
