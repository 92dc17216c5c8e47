"""Tokens that Cloud Run's IAM has checked before: they are trusted only if a setting says so."""

import time
from typing import Any

import pytest
from starlette.datastructures import Headers

from tests.http.test_auth import ACCOUNT, AUDIENCE, bearer, refusal, token
from worker.http.auth import REMOVED_SIGNATURE, Caller, Guard
from worker.http.oidc import GoogleTokens
from worker.settings import InvalidSettings, Settings

HOUR = 3600


def behind_iam() -> Guard:
    """A guard of a service that only the account may invoke."""
    return Guard(verifier=GoogleTokens(AUDIENCE, ACCOUNT, behind_iam=True))


def without_signature(whole: str) -> str:
    """A token as IAM leaves it."""
    return whole.rpartition(".")[0] + REMOVED_SIGNATURE


async def test_a_token_that_iam_has_checked_is_accepted() -> None:
    """Its audience, account and time are checked; no certificate is fetched."""
    await behind_iam().admit(bearer(without_signature(token())), "203.0.113.7", Caller.CLOCK)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "https://elsewhere.example"}, "audience"),
        ({"aud": None}, "audience"),
        ({"iss": "https://accounts.example.com"}, "audience"),
        ({"email": "stranger@example.com"}, "account"),
        ({"email_verified": False}, "account"),
        ({"email": None}, "account"),
        ({"exp": int(time.time()) - HOUR}, "expired"),
        ({"exp": None}, "not an ID token"),
        ({"exp": "soon"}, "not an ID token"),
    ],
)
async def test_a_token_checked_by_iam_still_needs_the_right_claims(
    claims: dict[str, Any], reason: str
) -> None:
    """Another audience or account, or an old token, is refused."""
    refused = await refusal(behind_iam(), bearer(without_signature(token(**claims))))
    assert (refused.status, refused.code) == (401, "invalid_token")
    assert reason in refused.message


@pytest.mark.parametrize("head", ["", "a", "a.b", "..", "a.W10", "a.bnVsbA", "a.e30", "a.eyJleHAiOiJuYW4ifQ"])
async def test_a_malformed_token_without_a_signature_is_refused(head: str) -> None:
    """The refusal is `invalid_token`, as for other invalid tokens."""
    refused = await refusal(behind_iam(), bearer(head + REMOVED_SIGNATURE))
    assert (refused.status, refused.code) == (401, "invalid_token")


async def test_signatures_are_still_checked() -> None:
    """A token that has a signature must have a valid one, so the setting does not help a forger."""
    refused = await refusal(behind_iam(), bearer(token().rpartition(".")[0] + ".c2lnbmF0dXJl"))
    assert refused.status in (401, 503)


BASE = {"SUPABASE_URL": "https://p.supabase.co", "SUPABASE_SERVICE_ROLE_KEY": "k", "GEMINI_API_KEY": "k"}


@pytest.mark.parametrize(
    ("value", "behind"), [("", False), ("worker", False), ("cloud-run", True), ("Cloud-Run", True)]
)
def test_the_worker_checks_tokens_unless_cloud_run_is_named(value: str, behind: bool) -> None:
    """`OIDC_CHECKED_BY=cloud-run` is accepted only on Cloud Run."""
    env = BASE | {"OIDC_CHECKED_BY": value, "K_SERVICE": "generation-worker"}
    assert Settings.from_env(env, "w").oidc_behind_iam is behind


@pytest.mark.parametrize("elsewhere", [{}, {"CLOUD_RUN_JOB": "j"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}])
def test_cloud_run_cannot_be_trusted_to_check_tokens_elsewhere(elsewhere: dict[str, str]) -> None:
    """Without Cloud Run's IAM, anybody could forge such a token."""
    with pytest.raises(InvalidSettings, match="OIDC_CHECKED_BY=cloud-run is only for a Cloud Run service"):
        Settings.from_env(BASE | elsewhere | {"OIDC_CHECKED_BY": "cloud-run"}, "w")


def test_an_unknown_token_checker_is_refused() -> None:
    """Only two values are known."""
    with pytest.raises(InvalidSettings, match="OIDC_CHECKED_BY must be one of"):
        Settings.from_env(BASE | {"OIDC_CHECKED_BY": "iam"}, "w")


async def test_a_stranger_whom_iam_let_in_cannot_add_the_clocks_token() -> None:
    """IAM has checked X-Serverless-Authorization, and only forwarded the forged token in Authorization."""
    forged = without_signature(token())
    own = without_signature(token(email="stranger@example.com"))
    headers = Headers({"X-Serverless-Authorization": f"Bearer {own}", "Authorization": f"Bearer {forged}"})
    refused = await refusal(behind_iam(), headers)
    assert (refused.status, refused.code) == (401, "invalid_token")


@pytest.mark.parametrize(
    "joined", ["{stranger},Bearer {clock}", "{stranger} {clock}", "!{clock}", "{clock}="]
)
async def test_no_other_text_can_be_read_as_the_token(joined: str) -> None:
    """Characters that a base64 decoder would skip make a token invalid, as do two joined headers."""
    parts = {"clock": without_signature(token()), "stranger": "e30.e30.e30"}
    refused = await refusal(behind_iam(), bearer(joined.format(**parts)))
    assert (refused.status, refused.code) == (401, "invalid_token")
