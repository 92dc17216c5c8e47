"""One result of `check`: what was checked, its state, and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, its state, and how to fix it; `fix` is None if there is nothing to fix."""

    name: str
    state: State
    message: str
    fix: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The finding for `--json`. Programs read the field `mend`, so it keeps its old name."""
        return {
            "name": self.name,
            "state": self.state,
            "message": self.message,
            "mend": self.fix,
            "ok": self.state != "failed",
        }


def passed(findings: Sequence[Finding]) -> bool:
    """Whether the worker can work; warnings do not prevent that."""
    return not any(finding.state == "failed" for finding in findings)
