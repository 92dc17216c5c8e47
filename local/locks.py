"""The locked packages of the requirements*.txt that `make lock` writes; takes nothing without a hash."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-photos.txt")

_PIN = re.compile(r"([a-z0-9-]+)==([A-Za-z0-9.+!]+)(?: ; ([^\\]+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class Locked(NamedTuple):
    """One package of a lock: its marker is "" where it is always installed."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]


def locked(path: Path) -> Iterator[Locked]:
    """The packages of a lock, in order.

    Raises ValueError at a line that is neither a comment nor a pinned package with its hashes: an option such
    as `--index-url`, an address, a range, a package without a hash.
    """
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    for entry in text.replace("\\\n", "").splitlines():
        pin, *hashes = re.split(r"\s+(?=--)", entry.strip())
        found = _PIN.fullmatch(pin)
        if found is None or not hashes or not all(map(_HASH.fullmatch, hashes)):
            raise ValueError(f"{path.name}: not a pinned package with its hashes: {entry[:100]}")
        name, version, marker = found.groups("")
        yield Locked(name, version, marker.strip(), frozenset(hashes))
