"""Who may call which path of the worker's function: each row of docs/security.md, by real requests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.folder import Folder, free_port
from local.stack.stack import Stack
from tests.http.test_auth import ACCOUNT, AUDIENCE, token
from tests.support.clone import wait_for
from tests.support.runs import Site, process_environment
from tests.support.yaml_text import read_yaml
from worker.http import process as http
from worker.http.auth import REMOVED_SIGNATURE, Caller
from worker.log.mask import SECRET_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
OPENAPI = read_yaml((ROOT / "docs" / "openapi" / "process_generation_queue.yaml").read_text())
HEADING = "| path | no credential, or a wrong one |"
CALLERS = (Caller(0), Caller.CLOCK, Caller.OPERATOR)
"""The columns of the page's table."""

SECRET = "a-secret-of-the-access-tests-01"
OPERATOR_SECRET = "an-operators-secret-of-the-access-tests"
PROMPT = "canary-of-the-prompt"


def behind_iam(**claims: Any) -> str:
    """A token as Cloud Run's IAM hands it on."""
    return f"Bearer {token(**claims).rpartition('.')[0]}{REMOVED_SIGNATURE}"


CLOCK = {
    "WORKER_SECRET": {"X-Worker-Secret": SECRET},
    "the OIDC token": {"Authorization": behind_iam()},
    "the token where IAM looks first": {"X-Serverless-Authorization": behind_iam()},
}
OPERATOR = {"OPERATOR_SECRET": {"X-Operator-Secret": OPERATOR_SECRET}}
NOBODY: dict[str, dict[str, str]] = {
    "none": {},
    "a wrong secret": {"X-Worker-Secret": SECRET + "x"},
    "a wrong operator's secret": {"X-Operator-Secret": OPERATOR_SECRET[:-1]},
    "the secrets swapped": {"X-Worker-Secret": OPERATOR_SECRET, "X-Operator-Secret": SECRET},
    "the secrets as bearer": {"Authorization": f"Bearer {OPERATOR_SECRET}"},
    "another account's token": {"Authorization": behind_iam(email="stranger@example.com")},
    "the clock's token beside a stranger's": {
        "Authorization": behind_iam(),
        "X-Serverless-Authorization": behind_iam(email="stranger@example.com"),
    },
    "a page on this machine": {"Host": "localhost", "Origin": "http://localhost"},
}
SHOWN = [
    *((Caller(0), name, headers) for name, headers in NOBODY.items()),
    *((Caller.CLOCK, name, headers) for name, headers in CLOCK.items()),
    *((Caller.OPERATOR, name, headers) for name, headers in OPERATOR.items()),
]


def table() -> dict[str, tuple[bool, ...]]:
    """The page's table: for each path, whether each column's caller is served."""
    rows = PAGE.partition(HEADING)[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert {cell for _, *served in cells for cell in served} == {"yes", "no"}
    return {path.strip("`"): tuple(cell == "yes" for cell in served) for path, *served in cells}


def operations() -> Iterator[tuple[str, str]]:
    """Every path and method that is described."""
    for path, methods in OPENAPI["paths"].items():
        for method in methods:
            yield path, method.upper()


@pytest.fixture(scope="module")
def guarded(
    stack: Stack, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Function]:
    """The function with every credential configured; tokens are as IAM leaves them, so none needs Google."""
    environment = process_environment(stack, simulator) | {
        "WORKER_SECRET": SECRET,
        "OPERATOR_SECRET": OPERATOR_SECRET,
        "OIDC_AUDIENCE": AUDIENCE,
        "OIDC_SERVICE_ACCOUNT": ACCOUNT,
        "OIDC_CHECKED_BY": "cloud-run",
        "K_SERVICE": "generation-worker",
    }
    folder = Folder(tmp_path_factory.mktemp("guarded"))
    with Function("process_generation_queue", folder, environment) as function:
        yield function


def ask(
    function: Function, method: str, path: str, headers: Mapping[str, str], body: Any = None
) -> httpx.Response:
    """The answer to a request."""
    return httpx.request(
        method, f"{function.url}{path}", headers=headers, json=body, timeout=60, trust_env=False
    )


def test_the_page_has_every_path() -> None:
    """The page's table, the OpenAPI description and the routes agree about every path."""
    said = {path: tuple(not route.callers or caller in route.callers if caller else not route.callers
                        for caller in CALLERS) for path, route in http.ROUTES.items()}  # fmt: skip
    assert table() == said
    assert set(table()) == {path for path, _ in operations()}


@pytest.mark.usefixtures("db")
@pytest.mark.parametrize(("path", "method"), list(operations()))
def test_each_row_of_the_page(guarded: Function, path: str, method: str) -> None:
    """Each credential opens what the page says and nothing else; a refusal names what would be accepted."""
    served = dict(zip(CALLERS, table()[path], strict=True))
    for caller, name, headers in SHOWN:
        answer = ask(guarded, method, path, headers, [] if method == "POST" else None)
        if served[caller]:
            assert answer.status_code not in (401, 403), name
            continue
        assert answer.status_code == (403 if caller else 401), (name, answer.text)
        error = answer.json()["error"]
        wrong_kind = {"operator_only", "clock_only"}
        assert (error["code"] in wrong_kind) == bool(caller), name
        assert ("X-Operator-Secret" in error["hint"]) == served[Caller.OPERATOR], name
        assert ("X-Worker-Secret" in error["hint"]) == served[Caller.CLOCK], name


@pytest.mark.parametrize("name", CLOCK)
async def test_a_stolen_clocks_credential(guarded: Function, site: Site, name: str) -> None:
    """The credential starts runs and shows ids and numbers; it reads no customer's data and cannot cancel."""
    headers = CLOCK[name]
    (done,) = await site.order("made", basePrompt=PROMPT)
    assert ask(guarded, "POST", "/", headers).json()["completed"] == 1
    (job,) = await site.order("waiting", basePrompt=PROMPT)
    batch = site.job(job)["batchId"]
    told = [ask(guarded, "POST", "/", headers, {"dryRun": True})]
    assert [each["id"] for each in told[0].json()["jobs"]] == [job]
    actions = [
        {"action": "cancel", "batchId": batch},
        {"action": "pause"},
        {"action": "retry-failed"},
        {"action": "release-stale"},
    ]
    refused = [ask(guarded, "POST", "/actions", headers, action) for action in actions]
    refused += [
        ask(guarded, "GET", path, headers)
        for path in ("/overview", f"/batch?id={batch}", f"/batch?id={done}")
    ]
    assert {answer.status_code for answer in refused} == {403}
    told += [*refused, ask(guarded, "GET", "/status", headers), ask(guarded, "GET", "/metrics", headers)]
    told += [ask(guarded, "POST", "/sweep", headers)]
    assert site.job(job)["status"] == "pending"
    assert not site.rows('select from generation.limits where "pausedAt" is not null')
    (photo,) = site.photos(done)
    for answer in told:
        for private in (PROMPT, site.user, site.photo, photo["storagePath"]):
            assert private not in answer.text, answer.request.url


async def test_a_stolen_operators_secret(guarded: Function, site: Site) -> None:
    """The secret shows and cancels orders; it starts nothing, and reads no prompt and no source photo."""
    (headers,) = OPERATOR.values()
    (job,) = await site.order("waiting", basePrompt=PROMPT)
    batch = site.job(job)["batchId"]
    refused = [ask(guarded, "POST", path, headers) for path in ("/", "/sweep")]
    refused.append(ask(guarded, "POST", "/", headers, {"dryRun": True}))
    assert {answer.status_code for answer in refused} == {403}
    assert site.job(job)["attempts"] == 0
    seen = [ask(guarded, "GET", "/overview", headers), ask(guarded, "GET", f"/batch?id={batch}", headers)]
    assert all(batch in answer.text for answer in seen)
    for answer in seen:
        assert PROMPT not in answer.text and site.photo not in answer.text
    ask(guarded, "POST", "/actions", headers, {"action": "cancel", "batchId": batch}).raise_for_status()
    assert site.job(job)["status"] == "cancelled"


def test_the_page_tells_of_every_secret() -> None:
    """The page says what each stolen secret allows; the publishable key is no secret."""
    rows = PAGE.partition("| stolen | can |")[2].partition("\n\n")[0]
    assert {name for name in SECRET_VARIABLES if f"\n| `{name}` |" not in rows} == {"SUPABASE_ANON_KEY"}


@contextmanager
def commands_of_the_page(environment: Mapping[str, str]) -> Iterator[str]:
    """The commands of docs/http.md that serve both functions on one machine; the address of the worker's."""
    text = (ROOT / "docs" / "http.md").read_text()
    (block,) = re.findall(r"```\n(export WORKER_DEVELOPMENT.*?)```", text, re.DOTALL)
    ports = {"8080": str(free_port()), "8081": str(free_port())}
    for usual, free in ports.items():
        block = block.replace(usual, free)
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = ["/bin/bash", "-euc", block]
    url = f"http://127.0.0.1:{ports['8080']}"
    with subprocess.Popen(
        command, cwd=ROOT, env={**environment, "PATH": path}, start_new_session=True
    ) as process:
        try:
            wait_for(lambda: answers(url))
            yield url
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    """Whether something answers there."""
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.usefixtures("db")
def test_on_ones_own_machine(stack: Stack, simulator: Simulator) -> None:
    """As docs/http.md serves it, this machine needs no credential; proxies, foreign pages and names do."""
    with (
        commands_of_the_page(process_environment(stack, simulator)) as url,
        httpx.Client(trust_env=False) as client,
    ):
        assert client.post(url, timeout=60).status_code == 200
        assert client.get(f"{url}/overview", timeout=60).status_code == 200
        for strange in (
            {"X-Forwarded-For": "127.0.0.1"},
            {"Via": "1.1 tunnel"},
            {"Origin": "https://evil.example"},
            {"Host": "rebound.example"},
        ):
            for method, path in (("POST", "/"), ("GET", "/overview"), ("GET", "/status")):
                assert client.request(method, f"{url}{path}", headers=strange).status_code == 403, strange


@pytest.mark.usefixtures("db")
def test_without_a_credential_loopback_alone_opens_nothing(
    stack: Stack, simulator: Simulator, tmp_path: Path
) -> None:
    """Unless development is set, not even the machine itself is served."""
    with Function(
        "process_generation_queue", Folder(tmp_path), process_environment(stack, simulator)
    ) as function:
        for path, method in operations():
            answer = ask(function, method, path, {}, [] if method == "POST" else None)
            assert answer.status_code == (403 if http.ROUTES[path].callers else 200), path
