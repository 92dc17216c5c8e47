"""The guard without Google: secrets, tokens, whose path it is, and who is served with nothing configured."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from worker.http.auth import Caller, CertificatesUnreachable, Guard, InvalidToken, is_local_developer
from worker.http.validation import RequestRefused

SECRET = "correct horse battery stäple"
OPERATORS = "another secret, for the operatör"
CLOCK, OPERATOR, EITHER = Caller.CLOCK, Caller.OPERATOR, Caller.CLOCK | Caller.OPERATOR
FAR = "203.0.113.7"


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


BY_SECRET = Guard(worker_secret=SECRET)
BY_TOKEN = Guard(verifier=Verifier())
BY_EITHER = Guard(worker_secret=SECRET, verifier=Verifier())
COMPLETE = Guard(worker_secret=SECRET, operator_secret=OPERATORS, verifier=Verifier())
GIVEN = SECRET.encode().decode("latin-1")  # as a server hands over the bytes that curl sends
WORKERS = {"X-Worker-Secret": GIVEN}
OPERATES = {"X-Operator-Secret": OPERATORS.encode().decode("latin-1")}
TOKEN = {"Authorization": "Bearer good"}


async def refusal(
    guard: Guard, headers: dict[str, str], allowed: Caller = CLOCK, host: str | None = FAR
) -> RequestRefused:
    """The guard's answer to a caller that it refuses."""
    with pytest.raises(RequestRefused) as caught:
        await guard.admit(Headers(headers), host, allowed)
    return caught.value


async def test_the_exact_secret_is_enough() -> None:
    """The header's name is case-insensitive, and the secret may have non-ASCII letters."""
    await BY_SECRET.admit(Headers({"x-worker-secret": GIVEN}), FAR, CLOCK)
    await BY_EITHER.admit(Headers({"X-WORKER-SECRET": GIVEN}), None, CLOCK)
    await COMPLETE.admit(Headers(OPERATES), FAR, OPERATOR)


@pytest.mark.parametrize("given", ["", "wrong", GIVEN[:-1], GIVEN + "x", GIVEN.upper(), f"Bearer {GIVEN}"])
@pytest.mark.parametrize(("allowed", "name"), [(CLOCK, "Worker"), (OPERATOR, "Operator"), (EITHER, "Worker")])
async def test_wrong_secret_is_refused_and_not_echoed(given: str, allowed: Caller, name: str) -> None:
    """Anything but the exact secret is a 401 which names the header and the setting, not the values."""
    refused = await refusal(COMPLETE, {f"X-{name}-Secret": given}, allowed)
    assert (refused.status, refused.code) == (401, "wrong_secret")
    assert refused.message == f"X-{name}-Secret does not match the setting {name.upper()}_SECRET"
    assert not {SECRET, OPERATORS} & {refused.message, refused.hint}


@pytest.mark.parametrize("shown", [WORKERS, TOKEN, {**WORKERS, **TOKEN}], ids=["secret", "token", "both"])
async def test_the_clock_is_no_operator(shown: dict[str, str]) -> None:
    """The clock's credential opens what the clock needs; elsewhere the refusal names the right one."""
    for allowed in (CLOCK, EITHER):
        await COMPLETE.admit(Headers(shown), FAR, allowed)
    refused = await refusal(COMPLETE, shown, OPERATOR)
    assert (refused.status, refused.code) == (403, "operator_only")
    assert refused.hint == "send OPERATOR_SECRET in the header X-Operator-Secret"


async def test_the_operator_is_no_clock() -> None:
    """The operator's secret sees and changes, starts nothing; the refusal names the clock's credentials."""
    for allowed in (OPERATOR, EITHER):
        await COMPLETE.admit(Headers(OPERATES), FAR, allowed)
    refused = await refusal(COMPLETE, OPERATES, CLOCK)
    assert (refused.status, refused.code) == (403, "clock_only")
    assert "X-Worker-Secret" in str(refused.hint) and "X-Operator-Secret" not in str(refused.hint)


async def test_a_secret_counts_in_its_own_header_alone() -> None:
    """One secret in the other's header, or both swapped, is a wrong secret."""
    swapped = {"X-Worker-Secret": OPERATES["X-Operator-Secret"], "X-Operator-Secret": GIVEN}
    for allowed in (CLOCK, OPERATOR, EITHER):
        assert (await refusal(COMPLETE, swapped, allowed)).code == "wrong_secret"


async def test_both_credentials_open_both() -> None:
    """A caller with both is scheduler and operator; a wrong one beside a valid one does no harm."""
    for allowed in (CLOCK, OPERATOR):
        await COMPLETE.admit(Headers({**WORKERS, **OPERATES}), FAR, allowed)
        await COMPLETE.admit(Headers({**TOKEN, **OPERATES}), FAR, allowed)
    await COMPLETE.admit(Headers({"X-Worker-Secret": "wrong", **OPERATES}), FAR, OPERATOR)
    await COMPLETE.admit(Headers({"X-Operator-Secret": "wrong", **WORKERS}), FAR, CLOCK)
    # `gcloud run services proxy` adds the token of whoever is signed in: no clock, and no harm.
    proxied = {"X-Serverless-Authorization": "Bearer of-a-person", **OPERATES}
    await COMPLETE.admit(Headers(proxied), FAR, OPERATOR)
    mistyped = await refusal(COMPLETE, {**proxied, "X-Operator-Secret": "wrong"}, OPERATOR)
    assert mistyped.code == "wrong_secret"


@pytest.mark.parametrize(
    "shown", [{}, WORKERS, TOKEN, OPERATES], ids=["none", "secret", "token", "operator's"]
)
@pytest.mark.parametrize("development", [False, True])
async def test_without_an_operators_secret_nobody_is_the_operator(
    shown: dict[str, str], development: bool
) -> None:
    """Runs continue, and operators read what to set."""
    guard = Guard(worker_secret=SECRET, verifier=Verifier(), development=development)
    refused = await refusal(guard, {"Host": "localhost", **shown}, OPERATOR, "127.0.0.1")
    assert (refused.status, refused.code) == (403, "operator_secret_missing")
    assert "OPERATOR_SECRET" in str(refused.hint)
    await guard.admit(Headers(WORKERS), FAR, CLOCK)
    await guard.admit(Headers(WORKERS), FAR, EITHER)


async def test_without_a_clock_nothing_starts() -> None:
    """The operator's secret alone starts no run."""
    guard = Guard(operator_secret=OPERATORS)
    refused = await refusal(guard, OPERATES)
    assert (refused.status, refused.code) == (403, "no_credentials_configured")
    await guard.admit(Headers(OPERATES), FAR, EITHER)


@pytest.mark.parametrize(
    ("guard", "headers", "named", "unnamed"),
    [
        (BY_SECRET, {}, "X-Worker-Secret", "Authorization"),
        (BY_SECRET, {"Authorization": f"Bearer {GIVEN}"}, "X-Worker-Secret", "Authorization"),
        (BY_TOKEN, {}, "Authorization", "X-Worker-Secret"),
        (BY_TOKEN, {"X-Worker-Secret": GIVEN}, "Authorization", "X-Worker-Secret"),
        (BY_TOKEN, {"Authorization": "Basic good"}, "Authorization", "X-Worker-Secret"),
        (BY_TOKEN, {"Authorization": "Bearer "}, "Authorization", "X-Worker-Secret"),
        (COMPLETE, {}, "X-Worker-Secret", "X-Operator-Secret"),
    ],
)
async def test_missing_credential_names_the_header(
    guard: Guard, headers: dict[str, str], named: str, unnamed: str
) -> None:
    """The hint names the header that would be accepted here, and none that would not."""
    refused = await refusal(guard, headers)
    assert (refused.status, refused.code) == (401, "no_credentials")
    assert named in str(refused.hint)
    assert unnamed not in str(refused.hint)


async def test_a_path_of_both_names_both() -> None:
    """The hint names all three credentials."""
    hint = str((await refusal(COMPLETE, {}, EITHER)).hint)
    for header in ("X-Worker-Secret", "X-Operator-Secret", "Authorization"):
        assert header in hint


async def test_either_credential_suffices() -> None:
    """If both are configured, one valid credential is enough."""
    await BY_EITHER.admit(Headers({"X-Worker-Secret": "wrong", **TOKEN}), None, CLOCK)
    await BY_EITHER.admit(Headers({**WORKERS, "Authorization": "Bearer bad"}), None, CLOCK)
    cut_off = Guard(worker_secret=SECRET, verifier=Verifier(reachable=False))
    await cut_off.admit(Headers({**WORKERS, **TOKEN}), None, CLOCK)


async def test_two_bad_credentials_stay_bad() -> None:
    """Two wrong credentials do not add up to a right one."""
    refused = await refusal(BY_EITHER, {"X-Worker-Secret": "wrong", "Authorization": "Bearer bad"})
    assert refused.status == 401
    assert "X-Worker-Secret" in str(refused.hint)
    assert "Authorization" in str(refused.hint)


async def test_the_token_that_cloud_run_checks_is_the_one_that_counts() -> None:
    """If X-Serverless-Authorization is there, IAM checks only it, so no other header counts."""
    await BY_TOKEN.admit(Headers({"X-Serverless-Authorization": "Bearer good"}), FAR, CLOCK)
    both = {"X-Serverless-Authorization": "Bearer of-another-caller", **TOKEN}
    assert (await refusal(BY_TOKEN, both)).code == "invalid_token"
    for nothing in ("", "Bearer ", "Basic good"):
        refused = await refusal(BY_TOKEN, {"X-Serverless-Authorization": nothing, **TOKEN})
        assert refused.code == "no_credentials"
    await BY_TOKEN.admit(Headers({**both, "X-Serverless-Authorization": "Bearer good"}), FAR, CLOCK)


@pytest.mark.parametrize("name", [b"authorization", b"x-serverless-authorization"])
async def test_two_tokens_are_none(name: bytes) -> None:
    """If a header occurs twice, it is unknown which one IAM checked."""
    with pytest.raises(RequestRefused) as caught:
        twice = Headers(raw=[(name, b"Bearer good"), (name, b"Bearer good")])
        await BY_TOKEN.admit(twice, FAR, CLOCK)
    assert caught.value.code == "no_credentials"


@pytest.mark.parametrize("guard", [Guard(), Guard(worker_secret="", operator_secret="")])
async def test_no_credential_configured_serves_nobody(guard: Guard) -> None:
    """Every request is refused, from loopback too, and the answer says what to set."""
    for headers in (
        {},
        {"X-Worker-Secret": ""},
        {"X-Worker-Secret": "x", **TOKEN},
        {"X-Operator-Secret": ""},
    ):
        for allowed, setting in (
            (CLOCK, "WORKER_SECRET"),
            (EITHER, "WORKER_SECRET"),
            (OPERATOR, "OPERATOR_SECRET"),
        ):
            refused = await refusal(guard, {"Host": "localhost", **headers}, allowed, "127.0.0.1")
            assert refused.status == 403
            assert refused.code in ("no_credentials_configured", "operator_secret_missing")
            assert setting in str(refused.hint)


async def test_development_serves_the_developer_on_this_machine_only() -> None:
    """Without a credential, and with WORKER_DEVELOPMENT=1, only loopback is served, on every path."""
    guard = Guard(development=True)
    for allowed in (CLOCK, OPERATOR, EITHER):
        await guard.admit(Headers({"Host": "localhost:8080"}), "127.0.0.1", allowed)
        refused = await refusal(guard, {"Host": "localhost:8080"}, allowed, "192.168.1.5")
        assert refused.status == 403
        refused = await refusal(guard, {"Host": "localhost:8080", "X-Forwarded-For": "::1"}, allowed, "::1")
        assert refused.status == 403
        # Not told to set what is set.
        assert "WORKER_DEVELOPMENT=1 allows only requests from this machine" in refused.message
        assert "http://localhost" in str(refused.hint) and "WORKER_DEVELOPMENT" not in str(refused.hint)


async def test_loopback_is_no_credential_once_one_is_configured() -> None:
    """A developer's machine with a secret checks the secret, loopback or not."""
    guard = Guard(worker_secret=SECRET, operator_secret=OPERATORS, development=True)
    for allowed in (CLOCK, OPERATOR):
        assert (await refusal(guard, {"Host": "localhost"}, allowed, "127.0.0.1")).status == 401


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
