"""The settings: read once, checked as a whole, and silent about secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.log.secret import Secret
from worker.settings import InvalidSettings, OrderSettings, Settings

GOOD = {
    "SUPABASE_URL": "https://abc.supabase.co",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_canary",
    "GEMINI_API_KEY": "gemini-canary",
}


def read(**changes: str) -> Settings:
    """The good settings with some of them changed."""
    return Settings.from_env({**GOOD, **changes}, "worker-1-abc")


def problems(**changes: str) -> str:
    """What is wrong with them, in one text."""
    with pytest.raises(InvalidSettings) as caught:
        read(**changes)
    return "\n".join(caught.value.problems)


def test_three_variables_are_enough() -> None:
    """Everything but address and keys has a default, and the defaults fit together."""
    settings = read()
    assert settings.gemini_model_name == "gemini-2.5-flash-image"
    assert settings.worker_id == "worker-1-abc"
    assert settings.invocation_timeout_seconds == 240
    assert not settings.worker_secret and not settings.operator_secret
    assert not settings.development


def test_all_problems_are_told_at_once() -> None:
    """Whoever sets a worker up learns everything that is missing or wrong from one try."""
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_env({"CALL_TIMEOUT_SECONDS": "soon", "WORKER_ID": "a b"}, "w")
    told = "\n".join(caught.value.problems)
    for name in (
        "SUPABASE_URL",
        "SUPABASE_SERVICE_ROLE_KEY",
        "GEMINI_API_KEY",
        "CALL_TIMEOUT_SECONDS",
        "WORKER_ID",
    ):
        assert name in told


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"CALL_TIMEOUT_SECONDS": "200", "INVOCATION_TIMEOUT_SECONDS": "210"}, "CALL_TIMEOUT_SECONDS"),
        ({"CLOUD_RUN_TIMEOUT_SECONDS": "60"}, "CALL_TIMEOUT_SECONDS"),
        ({"RETRY_BASE_SECONDS": "60", "RETRY_CAP_SECONDS": "30"}, "RETRY_BASE_SECONDS"),
        ({"OIDC_AUDIENCE": "https://worker"}, "OIDC_SERVICE_ACCOUNT"),
        ({"WORKER_SECRET": "short"}, "WORKER_SECRET must have at least 16"),
        ({"OPERATOR_SECRET": "short"}, "OPERATOR_SECRET must have at least 16"),
        ({"WORKER_SECRET": ""}, "WORKER_SECRET is blank"),
        ({"WORKER_SECRET": " \t"}, "WORKER_SECRET is blank"),
        ({"OPERATOR_SECRET": "\n"}, "OPERATOR_SECRET is blank"),
        (dict.fromkeys(("WORKER_SECRET", "OPERATOR_SECRET"), "one-secret-for-both"), "OPERATOR_SECRET"),
        ({"WORKER_DEVELOPMENT": "perhaps"}, "WORKER_DEVELOPMENT"),
        ({"WORKER_DEVELOPMENT": "1", "K_SERVICE": "generation-worker"}, "K_SERVICE"),
        ({"WORKER_DEVELOPMENT": "1", "CLOUD_RUN_JOB": "generation-worker"}, "CLOUD_RUN_JOB"),
        ({"WORKER_DEVELOPMENT": "yes", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "WORKER_DEVELOPMENT"),
        ({"SUPABASE_URL": "http://abc.supabase.co"}, "SUPABASE_URL"),
        ({"SUPABASE_URL": "https://abc.supabase.co/rest/v1"}, "SUPABASE_URL"),
        ({"IMAGES_AT_A_TIME": "2.5"}, "IMAGES_AT_A_TIME"),
        ({"JOBS_AT_A_TIME": "0"}, "JOBS_AT_A_TIME"),
        ({"PHOTO_MAX_EDGE": "511"}, "PHOTO_MAX_EDGE"),
        ({"PHOTO_MAX_EDGE": "4097"}, "PHOTO_MAX_EDGE"),
        ({"PHOTO_MAX_EDGE": "none"}, "PHOTO_MAX_EDGE"),
        ({"PHOTO_MAX_MB": "0"}, "PHOTO_MAX_MB"),
        ({"PHOTO_MAX_MB": "30.1"}, "PHOTO_MAX_MB"),
        ({"MARGIN_SECONDS": "nan"}, "MARGIN_SECONDS"),
        ({"DRAIN_JOB": "generation-worker"}, "DRAIN_JOB"),
        ({"DRAIN_JOB": "projects/p/locations/l/services/s"}, "DRAIN_JOB"),
    ],
)
def test_contradictory_or_impossible_values_are_refused_by_name(changes: dict[str, str], named: str) -> None:
    """Values that do not fit together or cannot be are refused, and the variable is named."""
    assert named in problems(**changes)


@pytest.mark.parametrize(
    ("text", "edge"), [("", 2048), ("512", 512), ("4096", 4096), ("off", None), ("OFF", None)]
)
def test_photos_have_the_edge_that_is_set_or_keep_their_size(text: str, edge: int | None) -> None:
    assert read(PHOTO_MAX_EDGE=text).photo_max_edge == edge


@pytest.mark.parametrize("allowed", ["1", "true", "YES"])
@pytest.mark.parametrize("url", ["http://kong:8000", "http://10.1.2.3:8000", "http://supabase.internal"])
def test_a_stack_in_a_private_network_is_allowed_when_said_so(url: str, allowed: str) -> None:
    """A self-hosted Supabase speaks http inside its network; the refusal names the setting that allows it."""
    assert "SUPABASE_ALLOW_HTTP=1" in problems(SUPABASE_URL=url)
    assert read(SUPABASE_URL=url, SUPABASE_ALLOW_HTTP=allowed).supabase_url == url
    order = {"SUPABASE_URL": url, "SUPABASE_ANON_KEY": "sb_publishable_canary"}
    assert OrderSettings.from_env({**order, "SUPABASE_ALLOW_HTTP": allowed}).supabase_url == url
    with pytest.raises(InvalidSettings, match="SUPABASE_ALLOW_HTTP=1"):
        OrderSettings.from_env(order)


NAMES = (
    "SUPABASE_URL", "SUPABASE_ALLOW_HTTP", "GEMINI_MODEL_NAME", "WORKER_ID", "OIDC_AUDIENCE",
    "OIDC_CHECKED_BY", "OIDC_SERVICE_ACCOUNT", "INVOCATION_TIMEOUT_SECONDS", "CLOUD_RUN_TIMEOUT_SECONDS",
    "MARGIN_SECONDS", "CALL_TIMEOUT_SECONDS", "JOBS_AT_A_TIME", "IMAGES_AT_A_TIME", "MAX_JOBS",
    "RETRY_BASE_SECONDS", "RETRY_CAP_SECONDS", "MAX_IDLE_SECONDS", "PHOTO_CONTACT", "DRAIN_JOB",
    "DRAIN_JOB_BACKLOG", "DRAIN_JOB_TASKS", "LOG_FORMAT", "LOG_LEVEL",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["sb_secret_7h9Kx2QfYw", "AIzaSyB canary-7h9Kx2", "7h9Kx2QfYwbTc4Lm"])
def test_a_key_in_the_wrong_line_is_not_repeated(name: str, key: str) -> None:
    """A key that was pasted into another setting is in no message: those are logged."""
    try:
        read(**{name: key})
    except InvalidSettings as invalid:
        assert "7h9Kx2" not in str(invalid)


def test_http_stays_refused_where_it_is_not_allowed() -> None:
    """`0` and `no` allow nothing, another word is a problem, and this machine needs no permission."""
    for refused in ("0", "no", "false"):
        assert "SUPABASE_URL" in problems(SUPABASE_URL="http://kong:8000", SUPABASE_ALLOW_HTTP=refused)
    assert "SUPABASE_ALLOW_HTTP" in problems(SUPABASE_ALLOW_HTTP="perhaps")
    assert "SUPABASE_URL" in problems(SUPABASE_URL="ftp://kong", SUPABASE_ALLOW_HTTP="1")
    assert "SUPABASE_URL" in problems(SUPABASE_URL="http://", SUPABASE_ALLOW_HTTP="1")
    assert "SUPABASE_URL" in problems(SUPABASE_URL="http://kong:8000/rest/v1", SUPABASE_ALLOW_HTTP="1")
    assert read(SUPABASE_URL="http://127.0.0.1:54321").supabase_url == "http://127.0.0.1:54321"


@pytest.mark.parametrize("url", ["https://[abc", "https://abc:99999", "https://abc:x", "https://abc:0"])
def test_an_address_that_is_none_is_named(url: str) -> None:
    """What no connection could be made to is a problem that is told, and no traceback."""
    assert "SUPABASE_URL" in problems(SUPABASE_URL=url)


def test_the_platforms_timeout_counts_unless_ours_is_set() -> None:
    """Cloud Run tells its request timeout; a timeout of our own goes before it."""
    assert read(CLOUD_RUN_TIMEOUT_SECONDS="300").invocation_timeout_seconds == 300
    both = read(CLOUD_RUN_TIMEOUT_SECONDS="300", INVOCATION_TIMEOUT_SECONDS="120")
    assert both.invocation_timeout_seconds == 120


def test_a_model_named_by_the_operator_is_never_exchanged() -> None:
    """Only the default model has a fallback, and `off` takes it away."""
    usual, off = read(), read(GEMINI_MODEL_FALLBACK="OFF")
    assert (usual.gemini_model_follows, usual.gemini_model_fallback) == (True, None)
    assert (off.gemini_model_follows, off.gemini_model_fallback) == (False, None)
    assert read(GEMINI_MODEL_FALLBACK="gemini-9").gemini_model_fallback == "gemini-9"
    named = read(GEMINI_MODEL_NAME="gemini-2.5-flash-image")
    assert named.gemini_model_fallback is None
    assert not named.gemini_model_is_default


@pytest.mark.parametrize("hosted", [{}, {"K_SERVICE": "generation-worker"}])
def test_development_is_told_and_never_guessed(hosted: dict[str, str]) -> None:
    """No platform and no address makes it development; only the setting does, where no platform is."""
    assert not read(**hosted).development
    assert not read(WORKER_DEVELOPMENT="0", **hosted).development
    assert read(WORKER_DEVELOPMENT="1").development


def test_secrets_do_not_show() -> None:
    """Neither the settings nor their error messages contain a key."""
    assert "canary" not in repr(read())
    assert "canary" not in str(Secret("canary"))
    assert "canary" not in problems(MAX_JOBS="0")
    same = dict.fromkeys(("WORKER_SECRET", "OPERATOR_SECRET"), "the-same-canary-twice")
    assert "canary" not in repr(read(WORKER_SECRET=same["WORKER_SECRET"]))
    assert "canary" not in problems(**same)


@given(
    st.dictionaries(st.sampled_from(["MAX_JOBS", "MARGIN_SECONDS", "SUPABASE_URL", "WORKER_ID"]), st.text())
)
def test_any_text_is_read_or_refused(env: dict[str, str]) -> None:
    """No value of a variable makes reading fail in any other way than by naming problems."""
    try:
        read(**env)
    except InvalidSettings as exc:
        assert exc.problems
