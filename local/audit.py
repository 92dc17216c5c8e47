"""Asks a vulnerability database (OSV) about every locked package: `python -m local.audit`.

Exit codes: 0 nothing known, 1 something known, 2 the database could not be asked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import httpx

from local.locks import LOCKS, ROOT, locked

OSV = "https://api.osv.dev/v1/querybatch"
"""Takes up to 1 000 questions at once, answers in their order (OSV API, "POST /v1/querybatch")."""

Pin = tuple[str, str]


def pins() -> list[Pin]:
    """Name and version of every package in any lock."""
    return sorted({(package.name, package.version) for lock in LOCKS for package in locked(ROOT / lock)})


def known(url: str, asked: Sequence[Pin]) -> dict[Pin, list[str]]:
    """The ids of what is known about each package that anything is known about.

    Raises httpx.HTTPError if the database cannot be asked, ValueError if it answers something else.
    """
    queries = [
        {"package": {"ecosystem": "PyPI", "name": name}, "version": version} for name, version in asked
    ]
    answer = httpx.post(url, json={"queries": queries}, timeout=30).raise_for_status().json()
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list) or len(results) != len(asked):
        raise ValueError("it did not answer every question")
    found = {pin: _ids(result) for pin, result in zip(asked, results, strict=True)}
    return {pin: ids for pin, ids in found.items() if ids}


def _ids(result: object) -> list[str]:
    match result:
        case {"vulns": [*entries]} if all(isinstance(entry, dict) and "id" in entry for entry in entries):
            return [str(entry["id"]) for entry in entries]
        case {"vulns": _}:
            raise ValueError("it answered something else")
        case dict():
            return []
    raise ValueError("it answered something else")


def main() -> int:
    """Tell what is known."""
    parser = argparse.ArgumentParser(prog="python -m local.audit", description=__doc__)
    parser.add_argument("--url", default=OSV, help="the database (default: %(default)s)")
    url = parser.parse_args().url
    asked = pins()
    try:
        found = known(url, asked)
    except (httpx.HTTPError, ValueError) as exc:
        print(f"NOT AUDITED: {url} could not be asked ({type(exc).__name__}: {exc}).", file=sys.stderr)
        print(
            "Run `make audit` where it can be reached: nothing is known about any package now.",
            file=sys.stderr,
        )
        return 2
    for (name, version), ids in found.items():
        print(f"{name} {version}: " + ", ".join(f"https://osv.dev/{entry}" for entry in ids))
    print(f"{len(asked)} locked packages, {len(found)} with a known vulnerability")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
