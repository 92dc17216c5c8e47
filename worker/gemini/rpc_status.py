"""Reads Google's error body (`google.rpc.Status` as JSON) without the SDK; never raises.

Only its codes, ids and numbers are shown, because its texts may quote the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_CONSTANT = re.compile(r"[A-Z][A-Z0-9_]{0,79}")
_DURATION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?s")
_FIELD_PATH = re.compile(r"[A-Za-z0-9_.\[\]]{1,120}")

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RpcStatus:
    """A parsed error body; `status` is the canonical name (`NOT_FOUND`), None if the body is not Google's.

    `text` is the human-readable message; only `worker.gemini.error_text` may use it.
    """

    status: str | None = None
    details: tuple[Json, ...] = ()
    errors: tuple[Json, ...] = ()
    text: str = field(default="", repr=False)

    def of_type(self, name: str) -> tuple[Json, ...]:
        """Return the details of one `google.rpc` type, by its short name (`QuotaFailure`)."""
        return tuple(detail for detail in self.details if _type(detail) == name)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return the machine-readable reasons: `ErrorInfo.reason` and the older `errors[].reason`."""
        found = (detail.get("reason") for detail in (*self.of_type("ErrorInfo"), *self.errors))
        return tuple(reason for reason in found if isinstance(reason, str) and reason.isidentifier())

    @property
    def retry_delay_seconds(self) -> float | None:
        """Return the longest `RetryInfo.retryDelay` in seconds; None if missing or invalid."""
        delays = [duration(detail.get("retryDelay")) for detail in self.of_type("RetryInfo")]
        return max((delay for delay in delays if delay is not None), default=None)

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the paths of the request fields that a `BadRequest` names."""
        violations = (
            item for detail in self.of_type("BadRequest") for item in objects(detail, "fieldViolations")
        )
        paths = (violation.get("field") for violation in violations)
        return tuple(path for path in paths if isinstance(path, str) and _FIELD_PATH.fullmatch(path))


def read_status(body: object) -> RpcStatus:
    """Read any decoded JSON: an object with `error`, only the inner object, or a list of either."""
    for item in body if isinstance(body, list) else [body]:
        if not isinstance(item, dict):
            continue
        error = item.get("error", item)
        if isinstance(error, dict):
            text = error.get("message")
            return RpcStatus(
                _status(error),
                objects(error, "details"),
                objects(error, "errors"),
                text if isinstance(text, str) else "",
            )
    return RpcStatus()


def constant(value: object) -> str | None:
    """Return `value` if it is an UPPER_SNAKE constant, which is safe to show."""
    return value if isinstance(value, str) and _CONSTANT.fullmatch(value) else None


def duration(value: object) -> float | None:
    """Read a protobuf duration in JSON form (`"47s"`, `"21.5s"`), in seconds."""
    return float(value[:-1]) if isinstance(value, str) and _DURATION.fullmatch(value) else None


def objects(parent: Json, key: str) -> tuple[Json, ...]:
    """Return the objects in the list `parent[key]`, ignoring other values."""
    return tuple(_dicts(parent.get(key)))


def _dicts(value: object) -> Iterator[Json]:
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            yield item


def _status(error: Json) -> str | None:
    """Return the canonical name; None for a proxy's body, where the SDK puts a text like "Bad Gateway"."""
    return constant(error.get("status"))


def _type(detail: Json) -> str:
    name = detail.get("@type")
    return name.rpartition("google.rpc.")[2] if isinstance(name, str) else ""
