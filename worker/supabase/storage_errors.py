"""What an answer of Storage that is no success means: the one table of it, for every call.

Storage names an error in `code` (new versions), `error` or `message`, and its status in `statusCode`; the
HTTP status is often 400. An answer without these names comes from a gateway or from another server.
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
class Answer:
    """An answer that is no success: its status, Storage's own if it gave one, and what names it."""

    status: int
    names: frozenset[str] = frozenset()

    @property
    def shown(self) -> str:
        """The status, and a name that is a constant and can hold nothing of the request."""
        constants = sorted(name for name in self.names if re.fullmatch(r"[A-Z][A-Za-z]{2,39}", name))
        return " ".join([str(self.status), *constants])


class ObjectMissing(GenerationError):
    """Storage itself says that it has no such object."""


class ObjectExists(GenerationError):
    """Storage has an object of that name already."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which answers mean what: by any of the names, or by the status. `fix` goes into the message."""

    names: frozenset[str]
    statuses: frozenset[int]
    error: type[GenerationError]
    code: str
    fix: str = ""


def _rule(names: str, statuses: str, error: type[GenerationError], code: str, fix: str = "") -> Rule:
    """A row of the table; names apart by `|`, statuses by spaces."""
    return Rule(frozenset(names.split("|")) - {""}, frozenset(map(int, statuses.split())), error, code, fix)


PASSING = " ".join(map(str, (408, 409, 423, 425, 429, *range(500, 600))))
RULES = (
    _rule("NoSuchKey|Object not found", "", ObjectMissing, "photo_missing"),
    # No object can have such a name, or one so long (a Storage key has 1024 bytes at most).
    _rule("InvalidKey|Invalid key", "414 431", ObjectMissing, "photo_missing"),
    _rule("KeyAlreadyExists|ResourceAlreadyExists|Duplicate", "", ObjectExists, "object_exists"),
    _rule("NoSuchBucket|Bucket not found", "", Misconfigured, "bucket_missing",
          f"create the bucket; if it is there, {URL}"),
    _rule("The related resource does not exist", "", Misconfigured, "bucket_missing", "create the bucket"),
    _rule("EntityTooLarge", "413", Misconfigured, "bucket_too_small",
          "raise the size limit of the bucket (sql/install.sql does) and of the project's Storage"),
    _rule("InvalidMimeType", "415", Misconfigured, "bucket_refuses_type",
          "allow image/png, image/jpeg and image/webp as types of the bucket (sql/install.sql does)"),
    _rule("InvalidJWT|invalid_jwt|invalid signature|InvalidSignature|ExpiredToken|Unauthorized|AccessDenied",
          "401", Misconfigured,
          "storage_refused", "check SUPABASE_SERVICE_ROLE_KEY and the rights on storage.objects"),
    _rule("TenantNotFound|Missing tenant config", "", Misconfigured, "storage_missing",
          f"no Storage answers there: {URL}"),
    _rule("", PASSING, QueueUnavailable, "unavailable"),
)  # fmt: skip
"""The first row that fits counts. What fits none is the project's trouble too: `OTHER`.

What a gateway says of the whole project (402, 540, 401 and 404 of its own) `supabase_errors` tells before."""

OF_ALL_PHOTOS = frozenset({
    "bucket_missing", "key_refused", "project_paused", "project_restricted", "rights_missing",
    "storage_missing", "storage_refused",
})  # fmt: skip
"""Codes of what no photo's name brings about: the key or the project. Whatever else keeps a photo from being
read (a firewall's page, a route that is not there) may concern that photo alone."""

OTHER = _rule("", "", Misconfigured, "storage_unknown", URL)


def read(status: int, body: bytes) -> Answer:
    """An answer as it came over the wire."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, Mapping):
        return Answer(status)
    return Answer(
        _status(said, status), frozenset(str(said.get(key, "")) for key in ("code", "error", "message"))
    )


def _status(said: Mapping[str, Any], status: int) -> int:
    try:
        return int(said["statusCode"])
    except (KeyError, TypeError, ValueError):
        return status


def meaning(answer: Answer, what: str) -> GenerationError:
    """The error that an answer to `what` (an upload, a bucket's photo, …) stands for."""
    rules = (rule for rule in RULES if rule.names & answer.names or answer.status in rule.statuses)
    rule = next(rules, OTHER)
    fix = f": {rule.fix}" if rule.fix else ""
    return rule.error(rule.code, f"Storage answered {answer.shown} to {what}{fix}")
