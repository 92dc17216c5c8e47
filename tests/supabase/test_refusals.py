"""Each refusal of Supabase is recognized: temporary, or caused by the project, the key, or a user's token.

The bodies are those that users reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.folder import Folder
from local.stack.stack import Stack
from tests.support.command_line import CommandLine
from tests.support.faults import Fault, FaultProxy, refusal
from tests.support.runs import Site, fresh_order, process_environment
from worker.errors import GenerationError, Misconfigured, QueueUnavailable
from worker.jobs import GeneratedImage, Usage
from worker.ops.check import check

ANY = ".*"
ENQUEUE = "POST /rest/v1/rpc/enqueue_generation_batch"


def postgrest(code: str, message: str) -> dict[str, str | None]:
    """An error of PostgREST's own."""
    return {"code": code, "message": message, "details": None, "hint": None}


FUTURE = refusal("401 Unauthorized", postgrest("PGRST303", "JWT issued at future"))
OLD_FUTURE = refusal("401 Unauthorized", postgrest("PGRST301", "JWT issued at future"))  # PostgREST 12
EXPIRED = refusal("401 Unauthorized", postgrest("PGRST303", "JWT expired"))
UNKNOWN_SIGNER = refusal("401 Unauthorized", postgrest("PGRST301", "No suitable key or wrong key type"))
INVALID_KEY = refusal(
    "401 Unauthorized",
    {
        "message": "Invalid API key",
        "hint": "Double check your Supabase `anon` or `service_role` API key.",
    },
)
LEGACY_KEY = refusal(
    "401 Unauthorized",
    {
        "message": "Legacy API keys are disabled",
        "hint": "Your legacy API keys (anon, service_role) were disabled on 2026-09-23T10:00:00+00:00.",
    },
)
KONG_KEY = refusal("401 Unauthorized", {"message": "Invalid authentication credentials"})
RESTRICTED = refusal(
    "402 Payment Required",
    {
        "message": "Service for this project is restricted due to the following violations:"
        " exceed_egress_quota. The project owner must upgrade their plan or remove spend caps"
        " to restore service."
    },
)


class Refusal(NamedTuple):
    """A refusal because of the project: how it arrives, its code, and what the operator is told to check."""

    fault: Fault
    code: str
    fix: str


PROJECT = {
    "invalid key": Refusal(INVALID_KEY, "key_refused", "SUPABASE_SERVICE_ROLE_KEY"),
    "legacy key": Refusal(LEGACY_KEY, "key_refused", "legacy keys are disabled"),
    "kong key": Refusal(KONG_KEY, "key_refused", "SUPABASE_SERVICE_ROLE_KEY"),
    "restricted": Refusal(RESTRICTED, "project_restricted", "exceed_egress_quota"),
    "paused": Refusal(refusal("540 Project Paused", "<html>paused</html>"), "project_paused", "restore it"),
    "firewall": Refusal(
        refusal("403 Forbidden", "<html><title>Attention Required! | Cloudflare</title></html>"),
        "gateway_refused",
        "network restrictions",
    ),
    "network": Refusal(
        refusal("403 Forbidden", {"message": "Your IP address is not allowed"}),
        "gateway_refused",
        "SUPABASE_URL",
    ),
    "no route": Refusal(
        refusal("404 Not Found", {"message": "no Route matched with those values"}),
        "api_missing",
        "SUPABASE_URL",
    ),
    "no page": Refusal(refusal("404 Not Found", "404 page not found"), "api_missing", "SUPABASE_URL"),
}
REST_ONLY = {
    "no schema": Refusal(
        refusal("406 Not Acceptable", postgrest("PGRST106", "Invalid schema: public")),
        "schema_not_exposed",
        "expose the schema public in the API settings",
    ),
    "stranger's key": Refusal(UNKNOWN_SIGNER, "key_refused", "SUPABASE_SERVICE_ROLE_KEY"),
    "key that ended": Refusal(EXPIRED, "key_refused", "SUPABASE_SERVICE_ROLE_KEY"),
}


@pytest.fixture
async def proxy(site: Site) -> AsyncIterator[FaultProxy]:
    """A proxy in front of Supabase that can refuse requests."""
    async with FaultProxy(site.stack.url) as proxy:
        yield proxy


@pytest.fixture
async def orders(
    proxy: FaultProxy, stack: Stack, simulator: Simulator, tmp_path: Path
) -> AsyncIterator[Function]:
    """`generate_images` behind the proxy, in its own process."""
    environment = process_environment(stack, simulator) | {"SUPABASE_URL": proxy.url}
    function = Function("generate_images", Folder(tmp_path), environment)
    await asyncio.to_thread(function.start)
    yield function
    await asyncio.to_thread(function.stop)


async def place(orders: Function, token: str) -> httpx.Response:
    """One order."""
    order = fresh_order(("a",), 1, "https://photos.example.com/a.jpg")
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.post(orders.url, json=order, headers={"Authorization": f"Bearer {token}"})


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("fault", [FUTURE, OLD_FUTURE])
async def test_a_run_outlasts_a_token_from_the_future(site: Site, proxy: FaultProxy, fault: Fault) -> None:
    """If Supabase's clock is behind for a moment, the call is repeated."""
    (job,) = await site.order("a")
    proxy.inject(fault, ".*claim_generation_jobs", times=2)
    summary = await site.run(SUPABASE_URL=proxy.url)
    assert (summary["completed"], summary["stopReason"], proxy.struck) == (1, "queue_empty", 2)
    assert site.job(job)["status"] == "completed"


@pytest.mark.usefixtures("no_backoff")
async def test_a_token_from_the_future_that_stays_is_an_outage(site: Site, proxy: FaultProxy) -> None:
    """The key is right, so nobody is told to change it; the next run tries again."""
    proxy.inject(FUTURE, ANY, times=100)
    with pytest.raises(QueueUnavailable):
        await site.run(SUPABASE_URL=proxy.url)


@pytest.mark.parametrize("name", [*PROJECT, *REST_ONLY])
async def test_the_project_is_named_by_every_call(site: Site, proxy: FaultProxy, name: str) -> None:
    """A permanent refusal is not retried; it is misconfigured and says what to do."""
    refused = (PROJECT | REST_ONLY)[name]
    proxy.inject(refused.fault, ANY, times=100)
    error = await _error(site.worker(SUPABASE_URL=proxy.url).queue.rpc("generation_gate", {}))
    assert isinstance(error, Misconfigured)
    assert (error.code, proxy.struck) == (refused.code, 1)
    assert refused.fix in error.message


@pytest.mark.parametrize("name", PROJECT)
async def test_the_project_is_named_by_storage(site: Site, proxy: FaultProxy, name: str) -> None:
    """Storage's calls meet the same gateway, and never report a missing photo because of it.

    If the answer names neither the key nor the project, it may concern only this photo's name.
    """
    proxy.inject(PROJECT[name].fault, ANY, times=100)
    worker = site.worker(SUPABASE_URL=proxy.url)
    image = GeneratedImage(b"x", "image/png", 1, 1, Usage(model="m"))
    errors = [
        await _error(worker.store.download("training-photos", f"{site.user}/me.png", 1000)),
        await _error(worker.store.put(f"{site.user}/x", image, 10.0)),
        await _error(worker.store.signed_url(f"{site.user}/x", 10, 10.0)),
    ]
    code = PROJECT[name].code
    of_a_photo = "photo_unreadable" if code in ("api_missing", "gateway_refused") else code
    assert [error.code for error in errors] == [of_a_photo, code, code]
    assert all(PROJECT[name].fix in error.message for error in errors)


async def _error(call: Any) -> GenerationError:
    with pytest.raises(GenerationError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("name", [*PROJECT, *REST_ONLY])
async def test_check_names_each_refusal_and_its_fix(site: Site, proxy: FaultProxy, name: str) -> None:
    """`check` reports no refusal as an outage."""
    refused = (PROJECT | REST_ONLY)[name]
    proxy.inject(refused.fault, ANY if name in PROJECT else "POST /rest/.*", times=100)
    findings = {finding.name: finding for finding in await check(site.worker(SUPABASE_URL=proxy.url))}
    supabase = findings["supabase"]
    assert supabase.state == "failed"
    assert refused.fix in f"{supabase.message}; {supabase.fix}"


@pytest.mark.parametrize("name", ["legacy key", "paused", "no schema"])
async def test_a_command_says_what_to_do(cli: CommandLine, proxy: FaultProxy, name: str) -> None:
    """An operator's command ends with what is wrong and how it is put right, not with an outage."""
    refused = (PROJECT | REST_ONLY)[name]
    proxy.inject(refused.fault, ANY, times=100)
    done = await cli.call("gate", "show", env={"SUPABASE_URL": proxy.url})
    complaint = done.complained(1)
    assert refused.fix in complaint and f"({refused.code})" in complaint
    assert "hint: " in complaint and "did not answer" not in complaint


async def test_a_command_outlasts_a_token_from_the_future(cli: CommandLine, proxy: FaultProxy) -> None:
    """A passing refusal is repeated for an operator as for a run."""
    proxy.inject(FUTURE, ANY, times=1)
    done = await cli.call("gate", "show", env={"SUPABASE_URL": proxy.url})
    assert (done.code, proxy.struck) == (0, 1)


async def test_a_missing_grant_is_no_wrong_key(site: Site) -> None:
    """If the service role may not call a function, the SQL has to be applied again."""
    function = "public.generation_gate()"
    site.db.execute(f"revoke execute on function {function} from service_role".encode())
    try:
        error = await _error(site.worker().queue.rpc("generation_gate", {}))
    finally:
        site.db.execute(f"grant execute on function {function} to service_role".encode())
    assert (error.code, "sql/install.sql" in error.message) == ("rights_missing", True)


async def test_an_order_outlasts_a_token_from_the_future(
    stack: Stack, proxy: FaultProxy, orders: Function
) -> None:
    """A user who just signed in can order, even without an Idempotency-Key."""
    _, token = stack.sign_up()
    proxy.inject(FUTURE, ENQUEUE, times=2)
    answer = await place(orders, token)
    assert (answer.status_code, proxy.struck) == (202, 2)
    proxy.inject(FUTURE, ENQUEUE, times=100)
    answer = await place(orders, token)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")


async def test_only_a_token_that_ended_means_sign_in(
    stack: Stack, proxy: FaultProxy, orders: Function
) -> None:
    """A problem of the user's own token is 401, at once.

    A refused key or project is 500 without details for the app; the log says what to fix.
    """
    _, token = stack.sign_up()
    for fault in (EXPIRED, UNKNOWN_SIGNER):
        proxy.inject(fault, ENQUEUE)
        answer = await place(orders, token)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["hint"]) == (401, "not_signed_in", "sign in again")
    assert "misconfigured" not in orders.log
    for refused in (*PROJECT.values(), REST_ONLY["no schema"]):
        before = proxy.struck
        proxy.inject(refused.fault, ENQUEUE, times=100)
        answer = await place(orders, token)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], proxy.struck - before) == (500, refused.code, 1)
        assert error["message"] == "orders cannot be accepted at the moment"
        assert not [word for word in ("SUPABASE", "key ", "egress", "dashboard") if word in answer.text]
        assert "misconfigured" in orders.log
        assert refused.fix.replace("SERVICE_ROLE", "ANON") in orders.log
        assert not [secret for secret in (stack.publishable_key, token) if secret in orders.log + answer.text]


async def test_a_refused_project_ends_the_run(site: Site, proxy: FaultProxy) -> None:
    """The run says what to fix, and takes nothing that it could not give back."""
    (job,) = await site.order("a")
    proxy.inject(RESTRICTED, ANY, times=100)
    summary = await site.run(SUPABASE_URL=proxy.url)
    assert summary["stopReason"] == "misconfigured"
    assert "exceed_egress_quota" in summary["problem"]
    assert site.job(job)["status"] == "pending"
