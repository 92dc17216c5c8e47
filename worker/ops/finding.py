"""One thing that `check` looked at, how it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do about it; `mend` is None where nothing is to be done."""

    name: str
    state: State
    message: str
    mend: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For machines; `ok` says whether the worker can work in spite of it."""
        return {**asdict(self), "ok": self.state != "failed"}


def passed(findings: Sequence[Finding]) -> bool:
    """Whether the worker can work; warnings do not keep it from that."""
    return not any(finding.state == "failed" for finding in findings)
