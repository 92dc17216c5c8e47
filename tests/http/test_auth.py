"""Who is admitted: the secret, Google's tokens (with a local certificate endpoint), and loopback."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jwt
import pytest
import requests
import responses
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from google.auth.exceptions import TransportError
from starlette.datastructures import Headers

from worker.http.auth import REMOVED_SIGNATURE, Caller, Guard
from worker.http.oidc import CachedFetch, GoogleTokens
from worker.http.validation import RequestRefused

CERTIFICATES = "https://www.googleapis.com/oauth2/v1/certs"
AUDIENCE = "https://worker.example"
ACCOUNT = "scheduler@project.iam.gserviceaccount.com"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(key: rsa.RSAPrivateKey) -> str:
    """As Google publishes it."""
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "federated-signon")])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(Encoding.PEM).decode()


def token(key: rsa.RSAPrivateKey = KEY, kid: str = "one", **changes: Any) -> str:
    """A token as Cloud Scheduler sends it; a change to None leaves the claim out."""
    now = int(time.time())
    claims = {
        "iss": "https://accounts.google.com",
        "aud": AUDIENCE,
        "email": ACCOUNT,
        "email_verified": True,
        "sub": "1",
        "iat": now,
        "exp": now + 3600,
        **changes,
    }
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, key, algorithm="RS256", headers={"kid": kid})


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def google() -> Iterator[responses.RequestsMock]:
    """Google's certificate endpoint, as `requests` sees it."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as endpoint:
        yield endpoint


def _publish(
    google: responses.RequestsMock, cache_control: str = "public, max-age=600, must-revalidate"
) -> None:
    google.get(CERTIFICATES, json={"one": certificate(KEY)}, headers={"Cache-Control": cache_control})


def guard(clock: Clock | None = None) -> Guard:
    """A guard that knows the account and no secret."""
    verifier = GoogleTokens(AUDIENCE, ACCOUNT, CachedFetch(monotonic=clock or Clock()))
    return Guard(verifier=verifier)


async def refusal(keeper: Guard, headers: Headers) -> RequestRefused:
    """The guard's answer to a caller that it refuses."""
    with pytest.raises(RequestRefused) as caught:
        await keeper.admit(headers, "203.0.113.7", Caller.CLOCK)
    return caught.value


def bearer(value: str) -> Headers:
    """The header that carries a token."""
    return Headers({"Authorization": f"Bearer {value}"})


async def test_good_token_is_admitted(google: responses.RequestsMock) -> None:
    """A token of the named account for the named audience, signed by Google, opens the door."""
    _publish(google)
    await guard().admit(bearer(token()), "203.0.113.7", Caller.CLOCK)
    await guard().admit(Headers({"authorization": f"bearer  {token()}"}), None, Caller.CLOCK)


BAD_TOKENS: dict[str, tuple[Callable[[], str], str]] = {
    "wrong audience": (lambda: token(aud="https://other.example"), "OIDC_AUDIENCE"),
    "audience in a list": (lambda: token(aud=[AUDIENCE]), "OIDC_AUDIENCE"),
    "no audience": (lambda: token(aud=None), "OIDC_AUDIENCE"),
    "wrong account": (lambda: token(email="other@project.iam.gserviceaccount.com"), "OIDC_SERVICE_ACCOUNT"),
    "no account": (lambda: token(email=None), "OIDC_SERVICE_ACCOUNT"),
    "address not verified": (lambda: token(email_verified=False), "OIDC_SERVICE_ACCOUNT"),
    "verified only in words": (lambda: token(email_verified="true"), "OIDC_SERVICE_ACCOUNT"),
    "expired": (lambda: token(iat=1000, exp=2000), "expired"),
    "from the future": (
        lambda: token(iat=int(time.time()) + 3600, exp=int(time.time()) + 7200),
        "not valid yet",
    ),
    "never expires": (lambda: token(exp=None), "signed"),
    "wrong issuer": (lambda: token(iss="https://securetoken.google.com/project"), "signed"),
    "no issuer": (lambda: token(iss=None), "signed"),
    "forged": (lambda: token(key=OTHER_KEY), "signed"),
    "unknown key": (lambda: token(key=OTHER_KEY, kid="two"), "signed"),
    "signed by the audience": (
        lambda: jwt.encode({"aud": AUDIENCE}, "x" * 32, algorithm="HS256", headers={"kid": "one"}),
        "signed",
    ),
    "not signed": (lambda: jwt.encode({"aud": AUDIENCE, "email": ACCOUNT}, "", algorithm="none"), "signed"),
    "garbage": (lambda: "garbage", "signed"),
    "odd base64": (lambda: "a.b.c", "signed"),
    "not JSON": (lambda: "Zm9v.Zm9v.Zm9v", "signed"),
    "deeply nested": (lambda: base64.urlsafe_b64encode(b"[" * 2400).decode() + ".e30.e30", "signed"),
    "too long": (lambda: "x" * 5000, "too long"),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
async def test_bad_token_is_refused(google: responses.RequestsMock, case: str) -> None:
    """Each way a token can be wrong is a 401 which says what is wrong and quotes nothing of the token."""
    _publish(google)
    make, reason = BAD_TOKENS[case]
    bad = make()
    refused = await refusal(guard(), bearer(bad))
    assert (refused.status, refused.code) == (401, "invalid_token")
    assert reason in refused.message
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert bad not in f"{refused.message} {refused.hint}"


async def test_token_without_its_signature_names_the_fix(google: responses.RequestsMock) -> None:
    """A token whose signature Cloud Run's IAM removed is refused, and the answer says how to fix it."""
    refused = await refusal(guard(), bearer(token().rpartition(".")[0] + REMOVED_SIGNATURE))
    assert (refused.status, refused.code) == (401, "token_signature_removed")
    assert "X-Worker-Secret" in str(refused.hint)
    assert len(google.calls) == 0


@pytest.mark.parametrize(
    "answer",
    [
        {"body": requests.ConnectionError("refused")},
        {"body": requests.Timeout("slow")},
        {"status": 503},
        {"body": "<html>sign in to the Wi-Fi</html>"},
        {"body": "[]"},
        {"body": json.dumps({"keys": []})},
    ],
    ids=["refused", "timeout", "503", "captive portal", "list", "other format"],
)
async def test_certificates_unreachable_is_not_the_callers_fault(
    google: responses.RequestsMock, answer: dict[str, Any]
) -> None:
    """Without certificates no token can be judged: 503 with Retry-After; the next request after it asks."""
    google.get(CERTIFICATES, **answer)
    clock = Clock()
    keeper = guard(clock)
    refused = await refusal(keeper, bearer(token()))
    assert (refused.status, refused.code) == (503, "certificates_unreachable")
    google.reset()
    _publish(google)
    clock.now += float(refused.headers["Retry-After"])
    await keeper.admit(bearer(token()), None, Caller.CLOCK)


async def test_forged_tokens_do_not_queue_up_while_certificates_are_unreachable(
    google: responses.RequestsMock,
) -> None:
    """Requests at the same time, and some seconds after, share one failed fetch: none waits for its own."""
    google.get(CERTIFICATES, body=requests.Timeout("slow"))
    keeper = guard()
    refusals = await asyncio.gather(*(refusal(keeper, bearer(token(key=OTHER_KEY))) for _ in range(20)))
    refusals.append(await refusal(keeper, bearer(token())))
    assert {(refused.status, refused.code) for refused in refusals} == {(503, "certificates_unreachable")}
    assert len(google.calls) == 1


async def test_tokens_that_wait_for_certificates_occupy_no_threads_of_others() -> None:
    """Names are looked up, and files read, in the threads of the event loop."""
    fetching, open_again = threading.Event(), threading.Event()

    def fetch(_url: str, **_options: object) -> NoReturn:
        fetching.set()
        open_again.wait(60)
        raise TransportError

    keeper = Guard(verifier=GoogleTokens(AUDIENCE, ACCOUNT, CachedFetch(fetch)))
    forged = [asyncio.create_task(refusal(keeper, bearer(token(key=OTHER_KEY)))) for _ in range(50)]
    try:
        while not fetching.is_set():
            await asyncio.sleep(0.01)
        await asyncio.wait_for(asyncio.to_thread(lambda: None), 30)
    finally:
        open_again.set()
    assert {refused.status for refused in await asyncio.gather(*forged)} == {503}


async def test_certificates_are_fetched_once_per_max_age(google: responses.RequestsMock) -> None:
    """Two tokens cost one fetch until max-age is over; a forged key id does not make it earlier."""
    _publish(google)
    clock = Clock()
    keeper = guard(clock=clock)
    await keeper.admit(bearer(token()), None, Caller.CLOCK)
    clock.now += 599
    await keeper.admit(bearer(token()), None, Caller.CLOCK)
    await refusal(keeper, bearer(token(kid="unknown")))
    assert len(google.calls) == 1
    clock.now += 2
    await keeper.admit(bearer(token()), None, Caller.CLOCK)
    assert len(google.calls) == 2


@pytest.mark.parametrize(
    "control", ["no-store, max-age=600", "no-cache, max-age=600", "public", "max-age=0", "max-age=junk"]
)
async def test_answer_without_a_max_age_is_not_kept(google: responses.RequestsMock, control: str) -> None:
    """Certificates are cached only if the answer allows it."""
    _publish(google, control)
    keeper = guard()
    await keeper.admit(bearer(token()), None, Caller.CLOCK)
    await keeper.admit(bearer(token()), None, Caller.CLOCK)
    assert len(google.calls) == 2


async def test_age_shortens_and_a_day_bounds_what_is_kept(google: responses.RequestsMock) -> None:
    """The time in another cache counts, and certificates are cached for at most a day."""
    clock = Clock()
    keeper = guard(clock=clock)
    for max_age, age, kept_seconds in ((600, 500, 100), (10**9 - 1, 0, 24 * 3600)):
        google.reset()
        headers = {"Cache-Control": f"max-age={max_age}", "Age": str(age)}
        google.get(CERTIFICATES, json={"one": certificate(KEY)}, headers=headers)
        clock.now += 10**6
        for moved, fetches in ((0, 1), (kept_seconds - 1, 1), (2, 2)):
            clock.now += moved
            await keeper.admit(bearer(token(exp=2 * int(time.time()))), None, Caller.CLOCK)
            assert len(google.calls) == fetches


@pytest.mark.parametrize(("audience", "account"), [("", ACCOUNT), (AUDIENCE, "")])
def test_verifier_without_audience_or_account_cannot_be_built(audience: str, account: str) -> None:
    """An empty audience would let any token of Google's through, so there is no such verifier."""
    with pytest.raises(ValueError, match="both"):
        GoogleTokens(audience, account)
