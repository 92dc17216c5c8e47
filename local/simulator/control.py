"""The simulator's control over HTTP, under /_sim/: configure, rules, ledger, release, reset."""

from __future__ import annotations

import json
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.simulator.behaviour import Stage
from local.simulator.faults import Rule
from local.simulator.ledger import Ledger


class Control:
    """The endpoints; a wrong setting or rule answers 400 with {"error": reason}."""

    def __init__(self, stage: Stage, ledger: Ledger, release: Callable[[], None]) -> None:
        self._stage = stage
        self._ledger = ledger
        self._release = release

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/_sim/configure", self.configure, methods=["POST"]),
            Route("/_sim/rules", self.add_rules, methods=["POST"]),
            Route("/_sim/ledger", self.read_ledger, methods=["GET"]),
            Route("/_sim/release", self.release, methods=["POST"]),
            Route("/_sim/reset", self.reset, methods=["POST"]),
        ]

    async def configure(self, request: Request) -> Response:
        """Change settings."""
        try:
            self._stage.configure(await request.json())
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            return JSONResponse({"error": str(exc)}, 400)
        return JSONResponse({"ok": True})

    async def add_rules(self, request: Request) -> Response:
        """Add the rules of a list after the existing ones."""
        try:
            rules = [Rule.parse(rule) for rule in await request.json()]
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            return JSONResponse({"error": str(exc)}, 400)
        for rule in rules:
            self._stage.add_rule(rule)
        return JSONResponse({"ok": True})

    async def read_ledger(self, request: Request) -> Response:
        """The summary, for windows of `?window_seconds=`, and the calls after sequence `?after=`."""
        after = int(request.query_params.get("after", 0))
        summary = self._ledger.summary(float(request.query_params.get("window_seconds", 60)))
        calls = [call.as_json() for call in self._ledger.calls if call.sequence > after]
        return JSONResponse({"summary": summary, "prompts": self._ledger.prompts(), "calls": calls})

    async def release(self, _: Request) -> Response:
        """Release the calls held back so far."""
        self._release()
        return JSONResponse({"ok": True})

    async def reset(self, request: Request) -> Response:
        """Empty the ledger and quotas and restore the first settings, unless {"keep_behaviour": true}."""
        body = await request.body()
        self._stage.reset(bool(json.loads(body or b"{}").get("keep_behaviour")))
        self._ledger.reset()
        return JSONResponse({"ok": True})
