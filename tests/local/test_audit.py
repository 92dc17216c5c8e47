"""The audit of the locked packages: known vulnerabilities are named, and silence is no good news."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping

import pytest

from local.audit import Pin, pins
from tests.support.wire import Script, listening, reply, reset

CALM: dict[str, object] = {}


async def audit(answer: Script) -> tuple[int, str, str, object]:
    """Its exit code, what it wrote, and what it asked of a database that answers this."""
    async with listening() as wire:
        wire.answer = answer
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "local.audit", "--url", f"{wire.url}/v1/querybatch"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, log = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return process.returncode, out.decode(), log.decode(), json.loads(wire.asked[0].body)


def answers(known: Mapping[Pin, list[str]]) -> Script:
    """A database that knows of these, and of nothing else."""
    results = [{"vulns": [{"id": entry} for entry in known[pin]]} if pin in known else CALM for pin in pins()]
    return reply("200 OK", {"results": results})


async def test_an_audit_without_findings_asks_for_every_package_and_exits_with_0() -> None:
    """The audit sends the name and version of each package."""
    code, out, _, asked = await audit(answers({}))
    assert code == 0
    assert out == f"{len(pins())} locked packages, 0 with a known vulnerability\n"
    assert asked == {
        "queries": [
            {"package": {"ecosystem": "PyPI", "name": name}, "version": version} for name, version in pins()
        ]
    }


async def test_a_known_vulnerability_exits_with_1_and_is_named() -> None:
    """The audit names the package and a page about the vulnerability."""
    pin = next(pin for pin in pins() if pin[0] == "pillow")
    code, out, _, _ = await audit(answers({pin: ["GHSA-xxxx", "PYSEC-1"]}))
    assert code == 1
    assert f"{pin[0]} {pin[1]}: https://osv.dev/GHSA-xxxx, https://osv.dev/PYSEC-1\n" in out


@pytest.mark.parametrize(
    "answer",
    [
        reset,
        reply("503 Service Unavailable", {}),
        reply("200 OK", b"<html>please log in</html>"),
        reply("200 OK", {"results": []}),
        reply("200 OK", []),
        reply("200 OK", {"results": [None] * len(pins())}),
        reply("200 OK", {"results": [{"vulns": ["x"]}] * len(pins())}),
    ],
    ids=["unreachable", "down", "a page", "too few answers", "no answers", "nothing", "something else"],
)
async def test_an_audit_that_cannot_ask_exits_with_2(answer: Script) -> None:
    """An incomplete answer counts as none; a message says so."""
    code, out, log, _ = await audit(answer)
    assert (code, out) == (2, "")
    assert log.startswith("NOT AUDITED: ")
    assert "Traceback" not in log
