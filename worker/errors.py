"""All expected errors, named by what the caller does about them.

GenerationError             has a machine-readable `code` and a human-readable `message`
├── Refused                 this image will never be made: record it as failed, continue with the others
├── BadInput                this job can never succeed as ordered: fail it immediately
├── Transient               retry once within the call, then later with backoff
│   ├── PhotoDelayed        other users' photos took all places: spends no attempt
│   └── PhotoUnprocessed    Gemini could not process a photo: retry once, then treat it as BadInput
├── RateLimited             the quota is used up: delay the job, spend no attempt
├── Misconfigured           nothing will work until the operator acts: stop the run
│   ├── ModelRetired        the model is gone: switch to its successor, or stop the run
│   └── ProjectRefused      the whole Supabase project: key refused, paused, restricted, schema not exposed
│       └── BearerRefused   PostgREST refused the bearer token: a user has to sign in again
├── QueueUnavailable        Supabase gave no valid answer: retry, then let the lease expire
│   ├── NotExecuted         the call was refused before execution: always safe to retry
│   └── PhotoBucketMissing  an allowed photo bucket does not exist: the job waits, others continue
├── PhotoUnreadable         a gateway blocks one photo: the job waits, others continue
└── QueueRefused            a database function refused the call: bad input, a bug or a version mismatch

Each vendor's exceptions are translated in one file (`gemini/client.py`, `photos/download.py`,
`photos/dns.py`, `supabase/queue.py`, `supabase/storage.py`); no other file handles them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

OPERATORS_MATTER = "The service has a problem that its operator has to fix."
NOT_ANSWERED = "The service's database or storage did not answer."
QUOTA_USED_UP = "The service has reached its limit for now; these photos will be made later."


class GenerationError(Exception):
    """Base of all expected failures; `code` is snake_case, `message` is safe to log and to show operators.

    `retry_after_seconds` is a lower bound for the next try, if there is one.
    """

    retry_after_seconds: float | None = None
    instead: ClassVar[str | None] = OPERATORS_MATTER
    """What customers see instead of `message`; None if the message is only about their order."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    @property
    def for_customers(self) -> str:
        """The message stored with the job, which the customer can read; it has no internal details."""
        return self.instead or self.message


class Refused(GenerationError):
    """Gemini refused this image for its content; a retry would be refused again."""

    instead = None


class BadInput(GenerationError):
    """The order itself is invalid: photo missing, too large, not an image, forbidden address."""

    instead = None


class Transient(GenerationError):
    """Overload, timeout or a broken connection; `retry_after_seconds` is the server's lower bound, if any."""

    instead = None

    def __init__(self, code: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after_seconds = retry_after_seconds


class PhotoDelayed(Transient):
    """A photo was not fetched because other users' photos took all places; spends no attempt."""


class PhotoUnprocessed(Transient):
    """Gemini could not process a photo and asks for a retry; the second failure is the photo's fault."""

    def as_bad_input(self) -> BadInput:
        """The error for the second failure."""
        return BadInput(self.code, self.message)


@dataclass(frozen=True, slots=True)
class QuotaFacts:
    """The facts of a 429: the exhausted period, the retry delay in seconds, and the quota's limit.

    `period` is `unknown` if the body names no quota. `retry_after_seconds` and `limit` are None if the body
    omits them.
    """

    period: Literal["minute", "day", "unknown"]
    retry_after_seconds: float | None = None
    limit: int | None = None
    quota_id: str | None = None


class RateLimited(GenerationError):
    """Gemini answered 429 for a quota that resets by itself; customers do not see which one."""

    instead = QUOTA_USED_UP

    def __init__(self, code: str, message: str, facts: QuotaFacts) -> None:
        super().__init__(code, message)
        self.facts = facts


class Misconfigured(GenerationError):
    """Key, permission, billing, a quota of zero, a missing function: the operator has to act."""


class ModelRetired(Misconfigured):
    """Google answered 404 for the model: it is unknown or has been shut down."""

    def __init__(self, code: str, message: str, model: str) -> None:
        super().__init__(code, message)
        self.model = model


class ProjectRefused(Misconfigured):
    """The Supabase project refuses all calls, or this key; `problem` is the problem, `fix` what to do."""

    def __init__(self, code: str, problem: str, fix: str) -> None:
        super().__init__(code, f"{problem}: {fix}")
        self.problem = problem
        self.fix = fix


class BearerRefused(ProjectRefused):
    """PostgREST does not accept the bearer token: the service key or a user's access token."""


class QueueUnavailable(GenerationError):
    """Supabase could not be reached, or its answer was invalid."""

    instead = NOT_ANSWERED


class NotExecuted(QueueUnavailable):
    """A transient refusal before anything was executed."""


class PhotoBucketMissing(QueueUnavailable):
    """An allowed bucket of source photos does not exist: the operator's problem, for these orders only.

    It does not stop the run, because any customer can order from an allowed bucket. The job is retried every
    five minutes.
    """

    retry_after_seconds = 300.0
    instead = OPERATORS_MATTER


class PhotoUnreadable(GenerationError):
    """A gateway in front of Storage blocks one photo: the operator's problem, for this order only.

    It does not stop the run, because any customer can give a photo a name that a firewall blocks. The job is
    retried every five minutes and spends attempts, so that it ends.
    """

    retry_after_seconds = 300.0

    def __init__(self, code: str, message: str, shown: str) -> None:
        super().__init__(code, message)
        self._shown = shown

    @property
    def for_customers(self) -> str:
        """The photo's name, and advice: another name may pass the firewall."""
        return f"{self._shown}: could not be read; rename it with letters and digits only and upload it again"


class QueueRefused(GenerationError):
    """A database function refused the call (`PTnnn`); `status` is the HTTP status it chose."""

    def __init__(self, code: str, message: str, status: int, hint: str | None = None) -> None:
        super().__init__(code, message)
        self.status = status
        self.hint = hint
