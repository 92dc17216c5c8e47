"""The environment that demo and function run in: built, never inherited, and naming no other machine."""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from local.demo.pace import Pace
from local.stack.errors import StackError
from local.stack.stack import Stack

KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TERM", "COLUMNS")
SIMULATED_KEY = "a-key-for-the-simulator"


def forget_the_rest() -> dict[str, str]:
    """Drops every variable but KEPT from this process, and so from its children; returns what was dropped."""
    dropped = {name: value for name, value in os.environ.items() if name not in KEPT}
    for name in dropped:
        del os.environ[name]
    return dropped


def kept() -> dict[str, str]:
    """The variables of this process's environment that are passed on."""
    return {name: os.environ[name] for name in KEPT if name in os.environ}


def on_loopback(url: str) -> str:
    """The URL itself; `StackError` unless it names this machine's loopback address."""
    if urlsplit(url).hostname not in ("127.0.0.1", "::1"):
        raise StackError(f"{url} is not on loopback.", "Only the local stack is used here.")
    return url


def worker_environment(stack: Stack, secret: str, pace: Pace, gemini: Mapping[str, str]) -> dict[str, str]:
    """Everything the served functions get; `gemini` says which Gemini, and with which key."""
    return {
        **kept(),
        "SUPABASE_URL": on_loopback(stack.url),
        "SUPABASE_SERVICE_ROLE_KEY": stack.secret_key,
        "SUPABASE_ANON_KEY": stack.publishable_key,
        "WORKER_SECRET": secret,
        "WORKER_ID": "local",
        "INVOCATION_TIMEOUT_SECONDS": f"{pace.invocation_seconds:g}",
        "MARGIN_SECONDS": f"{pace.margin_seconds:g}",
        "MAX_JOBS": f"{pace.jobs_a_call}",
        "CALL_TIMEOUT_SECONDS": f"{pace.call_seconds:g}",
        "RETRY_BASE_SECONDS": f"{pace.retry_base_seconds:g}",
        **gemini,
    }


def open_gate(stack: Stack, pace: Pace) -> None:
    """Tells the gate the quota, as an operator who knows it would (`python -m worker gate set --rate`)."""
    model = "gemini-2.5-flash-image"
    grace_seconds = pace.window_seconds / 60
    stack.psql(
        f"select set_generation_rate('{model}', {pace.quota}, 1, {pace.window_seconds}, {grace_seconds})"
    )


def simulated_gemini(url: str) -> dict[str, str]:
    """The simulator in Gemini's place, as the SDK's own variable names it."""
    return {"GOOGLE_GEMINI_BASE_URL": on_loopback(url), "GEMINI_API_KEY": SIMULATED_KEY}
