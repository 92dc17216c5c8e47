"""Translates Storage's error answers; one table for all calls.

Storage names the error in `code` (new versions), `error` or `message`, and its status in `statusCode`; the
HTTP status is often 400. An answer without these fields comes from a gateway or another server.
Names: supabase/storage, `internal/errors/codes.ts`; real answers: supabase/cli#4181, supabase#45491.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.errors import GenerationError, Misconfigured, QueueUnavailable

URL = "check SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY"


@dataclass(frozen=True, slots=True)
class StorageAnswer:
    """An error answer: its status (Storage's own if given) and the names of its error."""

    status: int
    names: frozenset[str] = frozenset()

    @property
    def shown(self) -> str:
        """The status and those names that are constants, so that nothing of the request is quoted."""
        constants = sorted(name for name in self.names if re.fullmatch(r"[A-Z][A-Za-z]{2,39}", name))
        return " ".join([str(self.status), *constants])


class ObjectMissing(GenerationError):
    """Storage answered that the object does not exist."""


class ObjectExists(GenerationError):
    """Storage already has an object of that name."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches answers by name or status. `fix` is appended to the message."""

    names: frozenset[str]
    statuses: frozenset[int]
    error: type[GenerationError]
    code: str
    fix: str = ""


def _rule(names: str, statuses: str, error: type[GenerationError], code: str, fix: str = "") -> Rule:
    """One row of the table; names are separated by `|`, statuses by spaces."""
    return Rule(frozenset(names.split("|")) - {""}, frozenset(map(int, statuses.split())), error, code, fix)


TRANSIENT = " ".join(map(str, (408, 409, 423, 425, 429, *range(500, 600))))
RULES = (
    _rule("NoSuchKey|Object not found", "", ObjectMissing, "photo_missing"),
    # No object can have such a name, or such a long one (a Storage key has at most 1024 bytes).
    _rule("InvalidKey|Invalid key", "414 431", ObjectMissing, "photo_missing"),
    _rule("KeyAlreadyExists|ResourceAlreadyExists|Duplicate", "", ObjectExists, "object_exists"),
    _rule("NoSuchBucket|Bucket not found", "", Misconfigured, "bucket_missing",
          f"create the bucket; if it exists, {URL}"),
    _rule("The related resource does not exist", "", Misconfigured, "bucket_missing", "create the bucket"),
    _rule("EntityTooLarge", "413", Misconfigured, "bucket_too_small",
          "raise the size limit of the bucket (sql/install.sql does) and of the project's Storage"),
    _rule("InvalidMimeType", "415", Misconfigured, "bucket_refuses_type",
          "allow image/png, image/jpeg and image/webp as types of the bucket (sql/install.sql does)"),
    _rule("InvalidJWT|invalid_jwt|invalid signature|InvalidSignature|ExpiredToken|Unauthorized|AccessDenied",
          "401", Misconfigured,
          "storage_refused", "check SUPABASE_SERVICE_ROLE_KEY and the rights on storage.objects"),
    _rule("TenantNotFound|Missing tenant config", "", Misconfigured, "storage_missing",
          f"Storage does not know this project: {URL}"),
    _rule("", TRANSIENT, QueueUnavailable, "unavailable"),
)  # fmt: skip
"""The first matching row wins; an answer that matches none is a project error: `OTHER`.

`rpc_errors.project_error` handles a gateway's own 401, 402, 404 and 540 before this table."""

OF_ALL_PHOTOS = frozenset({
    "bucket_missing", "key_refused", "project_paused", "project_restricted", "rights_missing",
    "storage_missing", "storage_refused",
})  # fmt: skip
"""Codes of problems with the key or the project, which affect all photos. Any other problem (a firewall's
page, a missing route) may affect only one photo, because of its name."""

OTHER = _rule("", "", Misconfigured, "storage_unknown", URL)


def read(status: int, body: bytes) -> StorageAnswer:
    """Read an HTTP answer."""
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    if not isinstance(fields, Mapping):
        return StorageAnswer(status)
    return StorageAnswer(
        _status(fields, status), frozenset(str(fields.get(key, "")) for key in ("code", "error", "message"))
    )


def _status(fields: Mapping[str, Any], status: int) -> int:
    try:
        return int(fields["statusCode"])
    except (KeyError, TypeError, ValueError):
        return status


def meaning(answer: StorageAnswer, what: str) -> GenerationError:
    """The error for an answer to `what` (an upload, reading a photo, …)."""
    rules = (rule for rule in RULES if rule.names & answer.names or answer.status in rule.statuses)
    rule = next(rules, OTHER)
    fix = f": {rule.fix}" if rule.fix else ""
    return rule.error(rule.code, f"Storage answered {answer.shown} ({what}){fix}")
