"""The settings: one frozen object read from environment variables, all problems reported at once.

Checks relations as well as values, so that a run that starts can also end in time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from worker.gemini.models import DEFAULT_MODEL
from worker.secret import Secret

MAX_RUN_SECONDS = 270.0
"""A run never lasts longer, whatever the platform allows, so that its leases (at most 290 s) end within
five minutes and "locked for more than 5 minutes" always means a dead worker."""

STORE_SECONDS = 15.0
"""What storing an image may take once its bytes are here: a 5 MB upload, with retries."""


HOSTED_BY = ("K_SERVICE", "CLOUD_RUN_JOB", "KUBERNETES_SERVICE_HOST")
"""Set where a loopback connection comes from a proxy beside us, not from a developer's keyboard."""


class InvalidSettings(Exception):
    """Settings that are missing, malformed or contradict each other; `problems` has a line for each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("settings: " + "; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a worker needs to know; times in seconds. docs/settings.md explains each.

    `gemini_model_follows`: once Google has shut the model down its successors are used, first
    `gemini_model_fallback` if there is one.
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
    drain_job: str | None = None
    drain_job_backlog: int = 500
    drain_job_tasks: int = 1

    @classmethod
    def from_env(cls, env: Mapping[str, str], default_worker_id: str, *, gemini: bool = True) -> Settings:
        """Read the settings from environment variables. Raises InvalidSettings with every problem found.

        Without `gemini` the key may be missing: whoever only looks after the queue need not have it.
        """
        read = _Reader(env)
        named, fallback = read.text("GEMINI_MODEL_NAME"), read.text("GEMINI_MODEL_FALLBACK")
        follows = not named and fallback.lower() != "off"
        settings = cls(
            supabase_url=read.url("SUPABASE_URL"),
            supabase_service_role_key=read.key("SUPABASE_SERVICE_ROLE_KEY"),
            gemini_api_key=read.key("GEMINI_API_KEY", needed=gemini),
            gemini_model_name=named or DEFAULT_MODEL,
            gemini_model_is_default=not named,
            gemini_model_follows=follows,
            gemini_model_fallback=fallback or None if follows else None,
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
            drain_job=read.job("DRAIN_JOB"),
            drain_job_backlog=read.whole("DRAIN_JOB_BACKLOG", 500, 1, 1_000_000),
            drain_job_tasks=read.whole("DRAIN_JOB_TASKS", 1, 1, 100),
        )
        read.log()
        problems = (*read.problems, *_contradictions(settings))
        if problems:
            raise InvalidSettings(problems)
        return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSettings:
    """What taking orders needs. No secret: an order is enqueued with its caller's token."""

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
        read.log()
        if read.problems:
            raise InvalidSettings(tuple(read.problems))
        return settings


def _invocation_timeout(read: _Reader) -> float:
    """Ours if set, else the platform's, which Cloud Run puts into CLOUD_RUN_TIMEOUT_SECONDS; else 240 s."""
    for name in ("INVOCATION_TIMEOUT_SECONDS", "CLOUD_RUN_TIMEOUT_SECONDS"):
        if read.text(name):
            return read.number(name, 240.0, 10.0, 3600.0)
    return 240.0


def _contradictions(settings: Settings) -> list[str]:
    """Relations between settings that would let a run outlive its invocation, or never start anything."""
    problems = []
    run = min(settings.invocation_timeout_seconds, MAX_RUN_SECONDS)
    if settings.call_timeout_seconds + settings.margin_seconds >= run:
        problems.append(
            f"CALL_TIMEOUT_SECONDS ({settings.call_timeout_seconds:g}) + MARGIN_SECONDS "
            f"({settings.margin_seconds:g}) must be less than the run's {run:g} s: "
            "raise the invocation timeout or lower them"
        )
    if settings.retry_base_seconds > settings.retry_cap_seconds:
        problems.append("RETRY_BASE_SECONDS must not be above RETRY_CAP_SECONDS")
    if bool(settings.oidc_audience) != bool(settings.oidc_service_account):
        problems.append("OIDC_AUDIENCE and OIDC_SERVICE_ACCOUNT belong together: set both or neither")
    secret = settings.operator_secret.reveal()
    if secret and secret == settings.worker_secret.reveal():
        problems.append(
            "OPERATOR_SECRET must not be the same as WORKER_SECRET: it may do what the clock may not"
        )
    return problems


def _has_port(parts: SplitResult) -> bool:
    """Whether the port can be one, if there is any."""
    try:
        return parts.port != 0
    except ValueError:
        return False


class _Reader:
    """Reads variables and collects what is wrong; returns a usable value all the same, so as to read on."""

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
        # It travels in a header, where anything else fails late, and with a traceback that quotes it.
        if not value.isascii() or not value.isprintable() or " " in value:
            self.problems.append(f"{name} holds characters that no key has: copy it again")
        return Secret(value)

    def callers_secret(self, name: str) -> Secret:
        """What callers have to show; empty if not set. Blank is a problem: a slip of whoever deploys."""
        value = self.text(name)
        if name in self._env and len(value) < 16:
            what = (
                "must have at least 16 characters"
                if value
                else "is set, but blank: give it a value or remove it"
            )
            self.problems.append(f"{name} {what} (try: openssl rand -hex 32)")
        return Secret(value)

    def development(self) -> bool:
        """Whether callers on this machine need no credential; never where a platform's proxy is beside us."""
        on = self.switch("WORKER_DEVELOPMENT")
        for name in HOSTED_BY if on else ():
            if name in self._env:
                self.problems.append(
                    f"WORKER_DEVELOPMENT is for a developer's own machine, and {name} is set here"
                )
        return on

    def behind_iam(self) -> bool:
        """Whether Cloud Run has checked the callers' tokens: only on Cloud Run."""
        believed = self.one_of("OIDC_CHECKED_BY", ("WORKER", "CLOUD-RUN")) == "CLOUD-RUN"
        if believed and "K_SERVICE" not in self._env:
            self.problems.append(
                "OIDC_CHECKED_BY=cloud-run is for a service of Cloud Run, which sets K_SERVICE: "
                "elsewhere nobody has checked the token"
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
        except ValueError:  # brackets that hold no IPv6 address
            parts = urlsplit("https://")
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        may_be_http = self.switch("SUPABASE_ALLOW_HTTP") or local
        if parts.scheme != "https" and not (parts.scheme == "http" and may_be_http):
            self.problems.append(
                f"{name} must be an https:// address (http:// only on this machine, or inside a private "
                "network with SUPABASE_ALLOW_HTTP=1)"
            )
        elif not parts.hostname or parts.path or parts.query or parts.username or not _has_port(parts):
            self.problems.append(f"{name} must be the project's bare address, like https://abc.supabase.co")
        return value

    def job(self, name: str) -> str | None:
        value = self.text(name)
        if value and not re.fullmatch(r"projects/[^/\s]+/locations/[^/\s]+/jobs/[^/\s]+", value):
            self.problems.append(f"{name} must be like projects/PROJECT/locations/REGION/jobs/NAME")
        return value or None

    def contact(self, name: str) -> str | None:
        """An address that stands in a header, in parentheses."""
        value = self.text(name)
        if value and not re.fullmatch(r"[!-'*-\[\]-~]{3,200}", value):
            self.problems.append(f"{name} must be an e-mail address or a URL, without spaces or parentheses")
        return value or None

    def worker_id(self, default: str) -> str:
        value = self.text("WORKER_ID") or default
        if not re.fullmatch(r"[A-Za-z0-9._:@-]{1,100}", value):
            self.problems.append("WORKER_ID must be 1 to 100 of the characters A-Z a-z 0-9 . _ : @ -")
        return value

    def number(self, name: str, default: float, least: float, most: float) -> float:
        value = self.text(name)
        try:
            number = float(value) if value else default
        except ValueError:  # it may be a key in the wrong line: its text is not repeated
            number, shown = float("nan"), ""
        else:
            shown = f", not {number:g}"
        if not least <= number <= most:
            self.problems.append(f"{name} must be a number from {least:g} to {most:g}{shown}")
            return default
        return number

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """The value in capitals, empty if it is not set."""
        value = self.text(name).upper()
        if value not in ("", *allowed):
            self.problems.append(f"{name} must be one of {', '.join(allowed)}")
        return value

    def switch(self, name: str) -> bool:
        """Whether it is on; off if it is not set."""
        return self.one_of(name, ("1", "TRUE", "YES", "0", "FALSE", "NO")) in ("1", "TRUE", "YES")

    def log(self) -> None:
        """What `log.set_up` reads, which must not fail before the settings are read."""
        self.one_of("LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
        self.one_of("LOG_FORMAT", ("LINE", "JSON"))

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        number = self.number(name, default, least, most)
        if number != int(number):
            self.problems.append(f"{name} must be a whole number, not {number:g}")
            return default
        return int(number)
