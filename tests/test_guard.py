"""The guard without Google: the secret, either-or, and who is served when no credential is configured."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from worker.auth import CertificatesUnreachable, Guard, InvalidToken, is_local_developer
from worker.request import RequestRefused

SECRET = "correct horse battery stäple"


class Verifier:
    """Believes one token, and can be cut off from its certificates."""

    def __init__(self, reachable: bool = True) -> None:
        self.reachable = reachable

    def verify(self, token: str) -> None:
        """Accept `good` only."""
        if not self.reachable:
            raise CertificatesUnreachable("ConnectionError")
        if token != "good":
            raise InvalidToken("the token is not good")


BY_SECRET = Guard(SECRET, None, hosted=True)
BY_TOKEN = Guard(None, Verifier(), hosted=True)
BY_EITHER = Guard(SECRET, Verifier(), hosted=True)
GIVEN = SECRET.encode().decode("latin-1")  # as a server hands over the bytes that curl sends


async def _refusal(guard: Guard, headers: dict[str, str], host: str | None = "203.0.113.7") -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        await guard.admit(Headers(headers), host)
    return caught.value


async def test_secret_opens() -> None:
    """The exact secret is enough, in any case of the header's name, also with letters beyond ASCII."""
    await BY_SECRET.admit(Headers({"x-worker-secret": GIVEN}), "203.0.113.7")
    await BY_EITHER.admit(Headers({"X-WORKER-SECRET": GIVEN}), None)


@pytest.mark.parametrize("given", ["", "wrong", GIVEN[:-1], GIVEN + "x", GIVEN.upper(), f"Bearer {GIVEN}"])
async def test_wrong_secret_is_refused_and_not_echoed(given: str) -> None:
    """Anything but the exact secret is a 401 which names the header and the setting, not the values."""
    refused = await _refusal(BY_SECRET, {"X-Worker-Secret": given})
    assert (refused.status, refused.code) == (401, "wrong_secret")
    told = f"{refused.message} {refused.hint}"
    assert "X-Worker-Secret" in told
    assert "WORKER_SECRET" in told
    assert SECRET not in told


@pytest.mark.parametrize(
    ("guard", "headers", "named", "unnamed"),
    [
        (BY_SECRET, {}, "X-Worker-Secret", "Authorization"),
        (BY_SECRET, {"Authorization": f"Bearer {GIVEN}"}, "X-Worker-Secret", "Authorization"),
        (BY_TOKEN, {}, "Authorization", "X-Worker-Secret"),
        (BY_TOKEN, {"X-Worker-Secret": GIVEN}, "Authorization", "X-Worker-Secret"),
        (BY_TOKEN, {"Authorization": "Basic good"}, "Authorization", "X-Worker-Secret"),
        (BY_TOKEN, {"Authorization": "Bearer "}, "Authorization", "X-Worker-Secret"),
    ],
)
async def test_missing_credential_names_the_header(
    guard: Guard, headers: dict[str, str], named: str, unnamed: str
) -> None:
    """The hint names the header that would be accepted here, and none that would not."""
    refused = await _refusal(guard, headers)
    assert (refused.status, refused.code) == (401, "no_credentials")
    assert named in str(refused.hint)
    assert unnamed not in str(refused.hint)


async def test_either_credential_suffices() -> None:
    """With both configured, a good one is enough whatever the other says."""
    await BY_EITHER.admit(Headers({"X-Worker-Secret": "wrong", "Authorization": "Bearer good"}), None)
    await BY_EITHER.admit(Headers({"X-Worker-Secret": GIVEN, "Authorization": "Bearer bad"}), None)
    cut_off = Guard(SECRET, Verifier(reachable=False), hosted=True)
    await cut_off.admit(Headers({"X-Worker-Secret": GIVEN, "Authorization": "Bearer good"}), None)


async def test_two_bad_credentials_stay_bad() -> None:
    """Two wrong credentials do not add up to a right one."""
    refused = await _refusal(BY_EITHER, {"X-Worker-Secret": "wrong", "Authorization": "Bearer bad"})
    assert refused.status == 401
    assert "X-Worker-Secret" in str(refused.hint)
    assert "Authorization" in str(refused.hint)


@pytest.mark.parametrize("secret", [None, ""])
async def test_no_credential_configured_serves_nobody(secret: str | None) -> None:
    """Without a credential the worker refuses, whatever the caller sends, and says which settings to make."""
    guard = Guard(secret, None, hosted=True)
    for headers in ({}, {"X-Worker-Secret": ""}, {"X-Worker-Secret": "x", "Authorization": "Bearer good"}):
        refused = await _refusal(guard, {"Host": "localhost", **headers}, "127.0.0.1")
        assert (refused.status, refused.code) == (403, "no_credentials_configured")
        assert "WORKER_SECRET" in str(refused.hint)


async def test_no_credential_serves_the_developer_on_this_machine_only() -> None:
    """Off the cloud, without a credential, loopback is served and the rest of the network is not."""
    guard = Guard(None, None, hosted=False)
    await guard.admit(Headers({"Host": "localhost:8080"}), "127.0.0.1")
    refused = await _refusal(guard, {"Host": "localhost:8080"}, "192.168.1.5")
    assert refused.code == "no_credentials_configured"


async def test_loopback_is_no_credential_once_one_is_configured() -> None:
    """A developer's machine with a secret checks the secret, loopback or not."""
    refused = await _refusal(Guard(SECRET, None, hosted=False), {"Host": "localhost"}, "127.0.0.1")
    assert refused.status == 401


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080"])
def test_local_developer_is_recognised(client: str, host: str) -> None:
    """Every form of loopback address and name counts."""
    assert is_local_developer(Headers({"Host": host}), client)
    assert is_local_developer(Headers({"Host": host, "Origin": "http://localhost:3000"}), client)


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        (None, {"Host": "localhost"}),
        ("testclient", {"Host": "localhost"}),
        ("10.0.0.1", {"Host": "localhost"}),
        ("::ffff:10.0.0.1", {"Host": "localhost"}),
        ("0.0.0.0", {"Host": "localhost"}),
        ("127.0.0.1", {}),
        ("127.0.0.1", {"Host": "rebound.example"}),
        ("127.0.0.1", {"Host": "127.0.0.1.example"}),
        ("127.0.0.1", {"Host": "[::1"}),
        ("127.0.0.1", {"Host": "localhost", "Origin": "https://evil.example"}),
        ("127.0.0.1", {"Host": "localhost", "Origin": "null"}),
        ("127.0.0.1", {"Host": "localhost", "Origin": "http://[::1"}),
        ("127.0.0.1", {"Host": "localhost", "X-Forwarded-For": "127.0.0.1"}),
        ("127.0.0.1", {"Host": "localhost", "X-Forwarded-Proto": "https"}),
        ("127.0.0.1", {"Host": "localhost", "X-Forwarded-Host": "localhost"}),
        ("127.0.0.1", {"Host": "localhost", "X-Real-IP": "127.0.0.1"}),
        ("127.0.0.1", {"Host": "localhost", "Forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", {"Host": "localhost", "Via": "1.1 proxy"}),
    ],
)
def test_anybody_else_is_not_local(client: str | None, headers: dict[str, str]) -> None:
    """Another machine, a proxy, a foreign page or a rebound name is not the developer."""
    assert not is_local_developer(Headers(headers), client)
