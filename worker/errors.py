"""What can go wrong, named by what the caller does about it.

GenerationError             carries a machine-readable `code` and a `message` a person can read
├── Refused                 this image will never be made: record it as failed, go on with the others
├── BadInput                this job can never work as it was ordered: fail it at once
├── Transient               worth another try: once within the call, then later with backoff
│   └── PhotoUnprocessed    Gemini could not process a photo: once more, then it is bad input
├── RateLimited             the quota is used up: put the job aside, spend no attempt
├── Misconfigured           nothing will work until the operator acts: stop the run
│   ├── ModelRetired        the model is gone: change over to its successor, or stop the run
│   └── ProjectRefused      the Supabase project as a whole: key refused, paused, restricted, not exposed
│       └── BearerRefused   PostgREST refused the bearer: if it is a person's token, they sign in again
├── QueueUnavailable        Supabase did not answer, or not sensibly: retry, then let the lease expire
│   ├── NotExecuted         the call was refused before anything was done: repeat whatever the call is
│   └── PhotoBucketMissing  a bucket that photos may come from is not there: the job waits, others go on
├── PhotoUnreadable         a gateway does not hand out one photo: the job waits, others go on
└── QueueRefused            a function of the database refused our call: a bug or a version mismatch

Vendor errors become these at one place each (`gemini/client.py`, `photos/download.py`,
`photos/dns.py`, `supabase/queue.py`, `supabase/storage.py`); nothing outside those files looks at a vendor's
exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

OPERATORS_MATTER = "The service has a problem that its operator has to fix."
NOT_ANSWERED = "The service's database or storage did not answer."
QUOTA_USED_UP = "The service has made as many photos as it may for now; these are made later."


class GenerationError(Exception):
    """Base of all expected failures; `code` is snake_case, `message` is safe to log and to show operators.

    `retry_after_seconds` is a lower bound for the next try, if there is one.
    """

    retry_after_seconds: float | None = None
    instead: ClassVar[str | None] = OPERATORS_MATTER
    """What customers read instead of the message; None where the message is about their order alone."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    @property
    def for_customers(self) -> str:
        """What the job's row says, which its customer reads: nothing of the installation's insides."""
        return self.instead or self.message


class Refused(GenerationError):
    """Gemini declined this image for what it would show; asking again would only be refused again."""

    instead = None


class BadInput(GenerationError):
    """The order itself cannot work: photo missing, too large, not an image, forbidden address."""

    instead = None


class Transient(GenerationError):
    """Overload, timeout or a broken connection; `retry_after_seconds` is the server's lower bound, if any."""

    instead = None

    def __init__(self, code: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after_seconds = retry_after_seconds


class PhotoUnprocessed(Transient):
    """Gemini could not process a photo and asks for another try; the second time the photo is at fault."""

    def as_bad_input(self) -> BadInput:
        """Return what it is the second time."""
        return BadInput(self.code, self.message)


@dataclass(frozen=True, slots=True)
class QuotaFacts:
    """What a 429 said: which period is used up, when to come back (seconds), and the quota's value.

    `period` is `unknown` where the body names no quota. `retry_after_seconds` and `limit` are
    None where the body leaves them out.
    """

    period: Literal["minute", "day", "unknown"]
    retry_after_seconds: float | None = None
    limit: int | None = None
    quota_id: str | None = None


class RateLimited(GenerationError):
    """Gemini answered 429 for a quota that comes back by itself; which one, is not for customers."""

    instead = QUOTA_USED_UP

    def __init__(self, code: str, message: str, facts: QuotaFacts) -> None:
        super().__init__(code, message)
        self.facts = facts


class Misconfigured(GenerationError):
    """Key, permission, billing, a quota of zero, a missing function: a person has to act first."""


class ModelRetired(Misconfigured):
    """The model answered 404: it is unknown or has been shut down."""

    def __init__(self, code: str, message: str, model: str) -> None:
        super().__init__(code, message)
        self.model = model


class ProjectRefused(Misconfigured):
    """The Supabase project serves nobody, or not with this key; `said` is what is wrong, `fix` what to do."""

    def __init__(self, code: str, said: str, fix: str) -> None:
        super().__init__(code, f"{said}: {fix}")
        self.said = said
        self.fix = fix


class BearerRefused(ProjectRefused):
    """PostgREST does not accept the bearer, be it the service key or a person's token."""


class QueueUnavailable(GenerationError):
    """Supabase could not be reached or answered with something that is not an answer."""

    instead = NOT_ANSWERED


class NotExecuted(QueueUnavailable):
    """A passing refusal, before anything was executed."""


class PhotoBucketMissing(QueueUnavailable):
    """A listed bucket of source photos does not exist: the operator's trouble, and of such orders alone.

    It stops no run, since anybody can order from a listed bucket. The job looks again every five minutes.
    """

    retry_after_seconds = 300.0
    instead = OPERATORS_MATTER


class PhotoUnreadable(GenerationError):
    """Something before Storage does not hand out one photo: the operator's trouble, and of such orders alone.

    It stops no run, since anybody can give a photo a name that a firewall dislikes. The job looks again every
    five minutes and spends its attempts, so that it ends.
    """

    retry_after_seconds = 300.0

    def __init__(self, code: str, message: str, shown: str) -> None:
        super().__init__(code, message)
        self._shown = shown

    @property
    def for_customers(self) -> str:
        """The photo's name, and what may help: a name that no firewall takes for an attack."""
        return f"{self._shown}: could not be read; upload it again under a name of letters and digits"


class QueueRefused(GenerationError):
    """A database function refused the call (`PTnnn`); `status` is the HTTP status it chose."""

    def __init__(self, code: str, message: str, status: int, hint: str | None = None) -> None:
        super().__init__(code, message)
        self.status = status
        self.hint = hint
