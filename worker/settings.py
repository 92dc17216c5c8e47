"""Reads the settings from environment variables into one frozen object and reports all problems at once.

Also checks relations between settings, so that a run can end before its invocation times out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from worker.gemini.models import DEFAULT_MODEL
from worker.log.secret import Secret

MAX_RUN_SECONDS = 270.0
"""The longest run, even if the platform allows more: leases (at most 290 s) then expire within five minutes,
and "locked for more than 5 minutes" always means a dead worker."""

MAX_EDGE = 2048
"""Pixels of a prepared photo's long edge. Gemini's tiles make more useless for a reference photo."""

MAX_PHOTO_BYTES = 30_000_000
"""The largest file of a source photo; the memory for originals is made for it."""

HOSTED_BY = ("K_SERVICE", "CLOUD_RUN_JOB", "KUBERNETES_SERVICE_HOST")
"""Set on platforms where a loopback connection comes from the platform's proxy, not from a developer."""


class InvalidSettings(Exception):
    """Settings are missing, malformed or contradictory; `problems` has one line for each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("settings: " + "; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The worker's settings; times in seconds. docs/settings.md explains each.

    `photo_max_edge`, in pixels, is None for photos that keep their size. `gemini_model_follows`: if Google
    shuts the model down, use `gemini_model_fallback` if set, otherwise the model's successor.
    """

    supabase_url: str
    supabase_service_role_key: Secret
    gemini_api_key: Secret
    gemini_model_name: str = DEFAULT_MODEL
    gemini_model_is_default: bool = True
    gemini_model_follows: bool = False
    gemini_model_fallback: str | None = None
    worker_id: str
    worker_secret: Secret = field(default_factory=lambda: Secret(""))
    operator_secret: Secret = field(default_factory=lambda: Secret(""))
    development: bool = False
    oidc_audience: str | None = None
    oidc_service_account: str | None = None
    oidc_behind_iam: bool = False
    invocation_timeout_seconds: float = 240.0
    margin_seconds: float = 20.0
    call_timeout_seconds: float = 60.0
    jobs_at_a_time: int = 10
    images_at_a_time: int = 10
    max_jobs: int = 100
    retry_base_seconds: float = 10.0
    retry_cap_seconds: float = 600.0
    max_idle_seconds: float = 30.0
    photo_contact: str | None = None
    photo_max_edge: int | None = MAX_EDGE
    photo_max_bytes: int = MAX_PHOTO_BYTES
    drain_job: str | None = None
    drain_job_backlog: int = 500
    drain_job_tasks: int = 1

    @property
    def two_requests_seconds(self) -> float:
        """Time for two requests. A run with less spends the attempt of a job whose request its end cuts: the
        next run could cut it in the same way."""
        return 2 * self.call_timeout_seconds

    @property
    def two_requests_budget_seconds(self) -> float:
        """The shortest run with time for two requests, rounded up by a second."""
        return self.two_requests_seconds + self.margin_seconds + 1

    @classmethod
    def from_env(cls, env: Mapping[str, str], default_worker_id: str, *, gemini: bool = True) -> Settings:
        """Read the settings from environment variables. Raises InvalidSettings with every problem found.

        Without `gemini` the Gemini key may be missing; commands that only manage the queue do not need it.
        """
        read = _Reader(env)
        model = read.model()
        settings = cls(
            supabase_url=read.url("SUPABASE_URL"),
            supabase_service_role_key=read.key("SUPABASE_SERVICE_ROLE_KEY"),
            gemini_api_key=read.key("GEMINI_API_KEY", needed=gemini),
            gemini_model_name=model.name,
            gemini_model_is_default=model.is_default,
            gemini_model_follows=model.follows,
            gemini_model_fallback=model.fallback,
            worker_id=read.worker_id(default_worker_id),
            worker_secret=read.callers_secret("WORKER_SECRET"),
            operator_secret=read.callers_secret("OPERATOR_SECRET"),
            development=read.development(),
            oidc_audience=read.text("OIDC_AUDIENCE") or None,
            oidc_service_account=read.text("OIDC_SERVICE_ACCOUNT") or None,
            oidc_behind_iam=read.behind_iam(),
            invocation_timeout_seconds=_invocation_timeout(read),
            margin_seconds=read.number("MARGIN_SECONDS", 20.0, 2.0, 120.0),
            call_timeout_seconds=read.number("CALL_TIMEOUT_SECONDS", 60.0, 1.0, 200.0),
            jobs_at_a_time=read.whole("JOBS_AT_A_TIME", 10, 1, 100),
            images_at_a_time=read.whole("IMAGES_AT_A_TIME", 10, 1, 100),
            max_jobs=read.whole("MAX_JOBS", 100, 1, 1000),
            retry_base_seconds=read.number("RETRY_BASE_SECONDS", 10.0, 0.1, 600.0),
            retry_cap_seconds=read.number("RETRY_CAP_SECONDS", 600.0, 1.0, 86_400.0),
            max_idle_seconds=read.number("MAX_IDLE_SECONDS", 30.0, 1.0, 3600.0),
            photo_contact=read.contact("PHOTO_CONTACT"),
            photo_max_edge=read.max_edge("PHOTO_MAX_EDGE"),
            photo_max_bytes=round(read.number("PHOTO_MAX_MB", MAX_PHOTO_BYTES / 1e6, 0.1, 30.0) * 1e6),
            drain_job=read.job("DRAIN_JOB"),
            drain_job_backlog=read.whole("DRAIN_JOB_BACKLOG", 500, 1, 1_000_000),
            drain_job_tasks=read.whole("DRAIN_JOB_TASKS", 1, 1, 100),
        )
        read.finish(_contradictions(settings))
        return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSettings:
    """The settings of the order function. They have no secret: orders use the caller's token."""

    supabase_url: str
    supabase_publishable_key: Secret
    cors_allowed_origins: tuple[str, ...]

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> OrderSettings:
        """Read the settings from environment variables. Raises InvalidSettings with every problem found."""
        read = _Reader(env)
        settings = cls(
            supabase_url=read.url("SUPABASE_URL"),
            supabase_publishable_key=read.key("SUPABASE_ANON_KEY"),
            cors_allowed_origins=read.origins(),
        )
        read.finish()
        return settings


def _invocation_timeout(read: _Reader) -> float:
    """INVOCATION_TIMEOUT_SECONDS if set, else CLOUD_RUN_TIMEOUT_SECONDS (set by Cloud Run), else 240 s."""
    for name in ("INVOCATION_TIMEOUT_SECONDS", "CLOUD_RUN_TIMEOUT_SECONDS"):
        if read.text(name):
            return read.number(name, 240.0, 10.0, 3600.0)
    return 240.0


def _contradictions(settings: Settings) -> list[str]:
    """Combinations of settings that let a run outlive its invocation, or never start a request."""
    problems = []
    run = min(settings.invocation_timeout_seconds, MAX_RUN_SECONDS)
    if settings.call_timeout_seconds + settings.margin_seconds >= run:
        problems.append(
            f"CALL_TIMEOUT_SECONDS ({settings.call_timeout_seconds:g}) + MARGIN_SECONDS "
            f"({settings.margin_seconds:g}) must be less than the run's {run:g} s: "
            "raise the invocation timeout or lower them"
        )
    if settings.retry_base_seconds > settings.retry_cap_seconds:
        problems.append("RETRY_BASE_SECONDS must not exceed RETRY_CAP_SECONDS")
    if bool(settings.oidc_audience) != bool(settings.oidc_service_account):
        problems.append("set both OIDC_AUDIENCE and OIDC_SERVICE_ACCOUNT, or neither")
    secret = settings.operator_secret.reveal()
    if secret and secret == settings.worker_secret.reveal():
        problems.append(
            "OPERATOR_SECRET must differ from WORKER_SECRET: it allows more than the scheduler may do"
        )
    return problems


def _has_port(parts: SplitResult) -> bool:
    """Whether the URL has a valid port or none."""
    try:
        return parts.port != 0
    except ValueError:
        return False


class _Model(NamedTuple):
    name: str
    is_default: bool
    follows: bool
    fallback: str | None


class _Reader:
    """Reads variables and collects problems. Returns a usable value for a bad one, to read all of them."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        return self._env.get(name, "").strip()

    def required(self, name: str) -> str:
        value = self.text(name)
        if not value:
            self.problems.append(f"{name} is not set")
        return value

    def key(self, name: str, needed: bool = True) -> Secret:
        value = self.required(name) if needed else self.text(name)
        # The key is sent in a header, where an invalid one fails late, with a traceback that quotes it.
        if not value.isascii() or not value.isprintable() or " " in value:
            self.problems.append(f"{name} has characters that are not valid in a key: copy it again")
        return Secret(value)

    def callers_secret(self, name: str) -> Secret:
        """A secret that callers have to send; empty if not set. A blank value is a deployment mistake."""
        value = self.text(name)
        if name in self._env and len(value) < 16:
            what = "must have at least 16 characters" if value else "is blank: set a value or remove it"
            self.problems.append(f"{name} {what} (try: openssl rand -hex 32)")
        return Secret(value)

    def development(self) -> bool:
        """Whether callers on this machine need no credential; refused behind a platform's proxy."""
        on = self.switch("WORKER_DEVELOPMENT")
        for name in HOSTED_BY if on else ():
            if name in self._env:
                self.problems.append(
                    f"WORKER_DEVELOPMENT is only for a developer's own machine, but {name} is set: remove it"
                )
        return on

    def behind_iam(self) -> bool:
        """Whether Cloud Run checks the callers' tokens; refused elsewhere."""
        believed = self.one_of("OIDC_CHECKED_BY", ("WORKER", "CLOUD-RUN")) == "CLOUD-RUN"
        if believed and "K_SERVICE" not in self._env:
            self.problems.append(
                "OIDC_CHECKED_BY=cloud-run is only for a Cloud Run service, which sets K_SERVICE: "
                "elsewhere the token is not checked; remove it"
            )
        return believed

    def origins(self) -> tuple[str, ...]:
        names = self.text("CORS_ALLOWED_ORIGINS").split(",")
        return tuple(name.strip() for name in names if name.strip()) or ("*",)

    def url(self, name: str) -> str:
        value = self.required(name).rstrip("/")
        if not value:
            return value
        try:
            parts = urlsplit(value)
        except ValueError:  # brackets without an IPv6 address
            parts = urlsplit("https://")
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        may_be_http = self.switch("SUPABASE_ALLOW_HTTP") or local
        if parts.scheme != "https" and not (parts.scheme == "http" and may_be_http):
            self.problems.append(
                f"{name} must be an https:// URL (http:// is allowed for localhost, or in a private network "
                "with SUPABASE_ALLOW_HTTP=1)"
            )
        elif not parts.hostname or parts.path or parts.query or parts.username or not _has_port(parts):
            self.problems.append(
                f"{name} must be the project's URL without a path, like https://abc.supabase.co"
            )
        return value

    def job(self, name: str) -> str | None:
        value = self.text(name)
        if value and not re.fullmatch(r"projects/[^/\s]+/locations/[^/\s]+/jobs/[^/\s]+", value):
            self.problems.append(f"{name} must be like projects/PROJECT/locations/REGION/jobs/NAME")
        return value or None

    def contact(self, name: str) -> str | None:
        """A contact address for the User-Agent header, where it is sent in parentheses."""
        value = self.text(name)
        if value and not re.fullmatch(r"[!-'*-\[\]-~]{3,200}", value):
            self.problems.append(f"{name} must be an e-mail address or a URL, without spaces or parentheses")
        return value or None

    def worker_id(self, default: str) -> str:
        value = self.text("WORKER_ID") or default
        if not re.fullmatch(r"[A-Za-z0-9._:@-]{1,100}", value):
            self.problems.append("WORKER_ID must have 1 to 100 characters of A-Z a-z 0-9 . _ : @ -")
        return value

    def number(self, name: str, default: float, least: float, most: float) -> float:
        value = self.text(name)
        try:
            number = float(value) if value else default
        except ValueError:  # do not quote the value: it may be a misplaced key
            number, shown = float("nan"), ""
        else:
            shown = f", not {number:g}"
        if not least <= number <= most:
            self.problems.append(f"{name} must be a number from {least:g} to {most:g}{shown}")
            return default
        return number

    def max_edge(self, name: str) -> int | None:
        """Pixels of a photo's long edge; None for `off`."""
        return None if self.text(name).lower() == "off" else self.whole(name, MAX_EDGE, 512, 4096)

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """The value in upper case; empty if not set."""
        value = self.text(name).upper()
        if value not in ("", *allowed):
            self.problems.append(f"{name} must be one of {', '.join(allowed)}")
        return value

    def switch(self, name: str) -> bool:
        """Whether the switch is on; off if not set."""
        return self.one_of(name, ("1", "TRUE", "YES", "0", "FALSE", "NO")) in ("1", "TRUE", "YES")

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        number = self.number(name, default, least, most)
        if number != int(number):
            self.problems.append(f"{name} must be a whole number, not {number:g}")
            return default
        return int(number)

    def model(self) -> _Model:
        """The Gemini model; the default one may be replaced by its successor, a named one may not."""
        named, fallback = self.text("GEMINI_MODEL_NAME"), self.text("GEMINI_MODEL_FALLBACK")
        follows = not named and fallback.lower() != "off"
        return _Model(named or DEFAULT_MODEL, not named, follows, fallback or None if follows else None)

    def finish(self, contradictions: Sequence[str] = ()) -> None:
        """Raise InvalidSettings if there is any problem.

        Also checks the variables that `log.set_up` reads; it ignores bad values because it runs first.
        """
        self.one_of("LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
        self.one_of("LOG_FORMAT", ("LINE", "JSON"))
        if problems := (*self.problems, *contradictions):
            raise InvalidSettings(problems)
