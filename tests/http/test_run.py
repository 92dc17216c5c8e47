"""The functions as functions-framework serves them: a real process, driven by HTTP, from order to photo."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.folder import Folder
from local.stack.stack import Stack
from tests.support.installation import User
from tests.support.runs import KEY, SOURCES, Site, fresh_order, picture, process_environment

SECRET = "a-secret-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def environment(stack: Stack, simulator: Simulator) -> dict[str, str]:
    """The environment of this module's processes."""
    return process_environment(stack, simulator) | {"WORKER_SECRET": SECRET}


@pytest.fixture(scope="module")
def queue(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """`process_generation_queue`, in its own process."""
    folder = Folder(tmp_path_factory.mktemp("queue"))
    with Function("process_generation_queue", folder, environment) as function:
        yield function


@pytest.fixture(scope="module")
def orders(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """`generate_images`, in its own process."""
    with Function("generate_images", Folder(tmp_path_factory.mktemp("orders")), environment) as function:
        yield function


async def post(function: Function, body: object = None, **headers: str) -> httpx.Response:
    """One request, with the worker's secret unless headers are given."""
    sent = headers or {"X-Worker-Secret": SECRET}
    async with httpx.AsyncClient(timeout=30) as client:
        return await client.post(function.url, json=body, headers=sent)


def bearer(user: User) -> str:
    """The header with someone's access token."""
    return str(user.client.options.headers["Authorization"])


async def test_a_call_with_the_secret_processes_the_queue(site: Site, queue: Function) -> None:
    """The response is the summary of the run."""
    (job,) = await site.order("a", images=2)

    answer = await post(queue)

    summary = answer.json()
    assert (answer.status_code, summary["completed"], summary["stopReason"]) == (200, 1, "queue_empty")
    assert site.job(job)["status"] == "completed"
    site.audit(summary)


@pytest.mark.parametrize("headers", [{"X-Worker-Secret": "wrong" * 8}, {"Authorization": f"Bearer {SECRET}"}])
async def test_without_the_right_secret_nothing_is_claimed(
    site: Site, queue: Function, headers: dict[str, str]
) -> None:
    """The secret must be in its own header."""
    (job,) = await site.order("a")

    answer = await post(queue, **headers)

    assert answer.status_code in (401, 403)
    assert (site.job(job)["attempts"], site.calls()) == (0, [])


async def test_a_dry_run_shows_the_next_jobs_and_claims_none(site: Site, queue: Function) -> None:
    """The jobs stay as they are."""
    a, b = await site.order("a", "b", images=3)
    before = [site.job(a), site.job(b)]

    answer = await post(queue, {"dryRun": True})

    found = [(job["id"], job["images"]) for job in answer.json()["jobs"]]
    assert (answer.status_code, found) == (200, [(a, 3), (b, 3)])
    assert [site.job(a), site.job(b)] == before
    assert (site.calls(), site.rows("select from generation.runs")) == ([], [])


async def test_max_jobs_limits_the_jobs_of_a_run(site: Site, queue: Function) -> None:
    """The request's body has the limit."""
    await site.order(*"abcdefghijkl")

    first = (await post(queue, {"maxJobs": 10})).json()
    second = (await post(queue)).json()

    assert [(s["claimed"], s["stopReason"]) for s in (first, second)] == [
        (10, "max_jobs"),
        (2, "queue_empty"),
    ]
    site.audit(first, second)


async def test_an_invalid_body_is_refused_before_anything_is_claimed(site: Site, queue: Function) -> None:
    """The queue stays as it is."""
    (job,) = await site.order("a")

    bodies: list[object] = [{"maxJob": 1}, {"maxJobs": 0}, {"budgetSeconds": 1}, {"dryRun": "yes"}, []]
    answers = [await post(queue, body) for body in bodies]

    assert {answer.status_code for answer in answers} == {400}
    assert site.job(job)["attempts"] == 0


async def test_failures_are_no_errors(site: Site, queue: Function) -> None:
    """A run whose jobs fail did its duty: 200, so that no scheduler repeats it."""
    site.gemini.add_rule({"kind": "error", "code": 400})
    await site.order("a")

    answer = await post(queue)

    assert (answer.status_code, answer.json()["failed"]) == (200, 1)
    site.audit(answer.json())


async def test_a_key_that_gemini_refuses_is_500_and_spends_nothing(site: Site, queue: Function) -> None:
    """The response names the problem."""
    site.gemini.configure(invalid_keys=[KEY])
    (job,) = await site.order("a")

    answer = await post(queue)

    assert (answer.status_code, answer.json()["stopReason"]) == (500, "misconfigured")
    assert "API key" in answer.json()["problem"]
    assert KEY not in answer.text
    assert (site.job(job)["status"], site.job(job)["attempts"]) == ("pending", 0)


async def test_a_run_without_supabase_is_503(environment: dict[str, str], tmp_path: Path) -> None:
    """The scheduler may call again."""
    nowhere = {"SUPABASE_URL": "http://127.0.0.1:9"}
    with Function("process_generation_queue", Folder(tmp_path), environment | nowhere) as function:
        answer = await post(function)

    assert answer.status_code == 503
    assert (
        environment["SUPABASE_SERVICE_ROLE_KEY"]
        not in answer.text + (tmp_path / f"{function.target}.log").read_text()
    )


async def test_from_order_to_photo(
    site: Site, queue: Function, orders: Function, user: Callable[[], Awaitable[User]]
) -> None:
    """A signed-in user orders, a run makes the photos, and only that user can see them."""
    customer, stranger = await user(), await user()
    await site.service.storage.from_(SOURCES).upload(
        f"{customer.id}/me.png", picture(), {"content-type": "image/png"}
    )
    site.user = customer.id
    order = fresh_order(("a", "b"), 2, f"{SOURCES}/{customer.id}/me.png", aspectRatio="3:4")
    headers = {"Authorization": bearer(customer), "Idempotency-Key": str(uuid4())}

    ordered = await post(orders, order, **headers)
    again = await post(orders, order, **headers)
    run = await post(queue)

    assert (ordered.status_code, again.status_code) == (202, 202)
    batch: dict[str, Any] = ordered.json()
    assert (batch["success"], batch["jobsEnqueued"]) == (True, 2)
    assert again.json()["batchId"] == batch["batchId"]
    assert (run.status_code, run.json()["completed"], run.json()["images"]["made"]) == (200, 2, 4)
    seen = (await customer.client.table("photo_generation_photos").select("*").execute()).data
    assert {row["batchId"] for row in seen if isinstance(row, dict)} == {batch["batchId"]}
    assert len(seen) == 4
    told = await customer.client.rpc("get_generation_batch", {"p_batch_id": batch["batchId"]}).execute()
    read: Any = told.data
    assert read["batch"]["status"] == "completed"
    assert (await stranger.client.table("photo_generation_photos").select("*").execute()).data == []
    assert (await stranger.client.table("photo_generation_batches").select("*").execute()).data == []
    site.audit(run.json())


async def test_an_order_without_a_token_is_refused(site: Site, orders: Function) -> None:
    """The refused order leaves no rows."""
    order = fresh_order(("a",), 1, site.photo)

    answers = [
        await post(orders, order, **{"X-Worker-Secret": SECRET}),
        await post(orders, order, Authorization="Bearer x"),
    ]

    assert {answer.status_code for answer in answers} == {401}
    assert site.rows("select from photo_generation_batches") == []
