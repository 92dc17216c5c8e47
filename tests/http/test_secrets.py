"""Secrets stay where they belong: real processes, every kind of failure, and all that they leave behind."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from local.demo.function import Function
from local.stack.folder import Folder
from tests.support.canaries import GEMINI_KEY, OIDC_TOKEN, WORKER_SECRET, Watched, quoting
from tests.support.runs import SOURCES, fresh_order
from tests.support.wire import Asked, listening
from worker.app import Application, Worker
from worker.settings import Settings

QUEUE, ORDERS = "process_generation_queue", "generate_images"
SECRET = {"X-Worker-Secret": WORKER_SECRET}
SUSPENDED = f"Consumer 'api_key:{GEMINI_KEY}' has been suspended."
TROUBLE = ("error", "html", "reset", "hang", "malformed", "truncated", "empty", "text", "finish", "blocked")
FAST = {"CALL_TIMEOUT_SECONDS": "2", "INVOCATION_TIMEOUT_SECONDS": "120", "MARGIN_SECONDS": "5"}
WIDE = {"JOBS_AT_A_TIME": "40", "IMAGES_AT_A_TIME": "40"}

OUTAGES = [
    ("401 Unauthorized", "gateway"),
    ("403 Forbidden", "page"),
    ("404 Not Found", "page"),
    ("429 Too Many Requests", "gateway"),
    ("500 Internal Server Error", "text"),
    ("502 Bad Gateway", "page"),
    ("200 OK", "page"),
    ("200 OK", "object"),
    ("200 OK", "list"),
]
DENIALS = ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found"]
PASSING = ["429 Too Many Requests", "500 Internal Server Error", "502 Bad Gateway", "200 OK"]


class Served:
    """Both functions in their own processes; `told` has all their answers."""

    def __init__(self, watched: Watched, folder: Path, **environment: str) -> None:
        self.folder = folder
        env = watched.environment | FAST | WIDE | environment
        self.functions = {target: Function(target, Folder(folder), env) for target in (QUEUE, ORDERS)}
        self.told: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Both answer until the end of the block."""
        with self.functions[QUEUE], self.functions[ORDERS]:
            yield

    async def post(self, target: str, body: object = None, **headers: str) -> int:
        """Sends a request, keeps the answer's headers and body, and returns its status."""
        async with httpx.AsyncClient(timeout=180, trust_env=False) as client:
            answer = await client.post(self.functions[target].url, json=body, headers=headers)
        self.told.append(f"{answer.headers}\n{answer.text}")
        return answer.status_code

    def log(self) -> str:
        """Everything that both have written."""
        return "\n".join((self.folder / f"{target}.log").read_text() for target in self.functions)


async def order_of_everything(watched: Watched, served: Served) -> None:
    """A customer orders valid and invalid photos; other callers are refused."""
    site, bearer = watched.site, {"Authorization": f"Bearer {watched.token}"}
    for kind in TROUBLE:
        site.gemini.add_rule({"kind": kind, "message": SUSPENDED}, prompt=f"[{kind}]", times=2)
    site.gemini.add_rule({"kind": "quota", "limit": 10_000, "retry_seconds": 0.1}, prompt="[quota]", times=1)
    order = fresh_order((*TROUBLE, "quota", "good"), 1, site.photo)
    assert await served.post(ORDERS, order, **bearer) == 202
    await site.order("gone", photo=f"{SOURCES}/{site.user}/gone.png")
    wrong = [{}, {**order, "priority": 5}, {**order, "exampleImages": [{"url": "http://10.0.0.1/"}]}, []]
    assert [await served.post(ORDERS, body, **bearer) for body in wrong] == [400] * len(wrong)
    strange = {"Authorization": f"Bearer {watched.token[:-4]}AAAA"}
    assert await served.post(ORDERS, order, **strange) == 401
    assert await served.post(ORDERS, order, Authorization=f"Bearer {WORKER_SECRET}") == 401


async def test_runs_with_every_failure(watched: Watched, tmp_path: Path) -> None:
    """Success, trouble, refused callers and an outage leave no secret in log, answer, URL or row."""
    site, served = watched.site, Served(watched, tmp_path)
    with served.running():
        await order_of_everything(watched, served)
        assert await served.post(QUEUE, **SECRET) == 200
        assert await served.post(QUEUE, **{"X-Worker-Secret": WORKER_SECRET[:-1]}) == 401
        assert await served.post(QUEUE, Authorization=f"Bearer {OIDC_TOKEN}") == 503
        site.gemini.add_rule({"kind": "error", "code": 403, "message": SUSPENDED}, prompt="[denied]")
        site.make_due()
        await site.order("denied")
        assert await served.post(QUEUE, **SECRET) == 500
        watched.assert_traffic_is_clean()
        watched.api.cut()
        assert await served.post(QUEUE, **SECRET) == 503
    log = served.log()
    for sign in ("image_made", "image_erred", "image_refused", "misconfigured", "queue_unavailable",
                 "certificates_unreachable", "connect_tcp.started", "HTTP Request: POST"):  # fmt: skip
        assert sign in log, sign
    watched.canaries.assert_absent("the log", log)
    watched.canaries.assert_absent("an answer", "\n".join(served.told))
    watched.assert_database_is_clean()


@pytest.mark.slow
async def test_supabase_quotes_the_request(watched: Watched, tmp_path: Path) -> None:
    """Whatever a gateway before Supabase answers, its quotes of our headers reach neither log nor caller."""
    async with listening() as wire:
        served = Served(watched, tmp_path, SUPABASE_URL=wire.url)
        with served.running():
            for status, shape in OUTAGES:
                wire.answer = quoting(status, shape)
                statuses = [
                    await served.post(QUEUE, **SECRET),
                    await served.post(ORDERS, {}, Authorization=f"Bearer {watched.token}"),
                ]
                assert all(code >= 400 for code in statuses), (status, shape, statuses)
    assert any(
        site_key in str(asked.headers)
        for asked in wire.asked
        for site_key in watched.canaries.values.values()
    )
    assert "Traceback" in served.log()
    watched.canaries.assert_absent("the log", served.log())
    watched.canaries.assert_absent("an answer", "\n".join(served.told))


async def written(command: str, environment: dict[str, str]) -> tuple[int | None, str]:
    """The exit code of a command and all it has written, be it a traceback."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", command),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode, out.decode()


@pytest.mark.parametrize(
    ("command", "status", "shape"),
    [
        ("tick", "200 OK", "object"),
        ("tick", "401 Unauthorized", "gateway"),
        ("status", "200 OK", "object"),
        ("check", "502 Bad Gateway", "page"),
    ],
)
async def test_supabase_quotes_the_request_to_the_command_line(
    watched: Watched, command: str, status: str, shape: str
) -> None:
    """No secret reaches the stdout or stderr of a command."""
    async with listening() as wire:
        wire.answer = quoting(status, shape)
        code, told = await written(command, watched.environment | {"SUPABASE_URL": wire.url})
    assert watched.site.stack.secret_key in str(wire.asked[0].headers)
    assert (code, "command_failed" in told) == (1, shape == "object"), told
    watched.canaries.assert_absent(f"what {command} writes", told)


def by_name(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Answer what the example's name in the prompt asks for."""
    body = asked.body.decode("latin-1")
    status = next(status for status in (*DENIALS, *PASSING) if f"[{status}]" in body)
    quoting(status, "google")(asked, writer)


@pytest.mark.slow
async def test_gemini_quotes_the_request(watched: Watched, tmp_path: Path) -> None:
    """Whatever answers in Gemini's place, its quotes of the key reach no log, no summary and no row."""
    async with listening() as wire:
        wire.answer = by_name
        served = Served(watched, tmp_path, GOOGLE_GEMINI_BASE_URL=wire.url)
        with served.functions[QUEUE]:
            for status in (*PASSING, *DENIALS):
                await watched.site.order(status)
                await served.post(QUEUE, **SECRET)
                watched.site.rows("select cancel_generation_batch(id) from photo_generation_batches")
                watched.site.make_due()
        wire.answer = quoting("403 Forbidden", "google")
        _, checked = await written("check", watched.environment | {"GOOGLE_GEMINI_BASE_URL": wire.url})
    for status in (*PASSING, *DENIALS):
        assert any(f"[{status}]".encode() in asked.body for asked in wire.asked), (status, served.told)
    assert all(asked.headers["x-goog-api-key"] == GEMINI_KEY for asked in wire.asked)
    texts = (*served.told, (tmp_path / f"{QUEUE}.log").read_text(), checked)
    watched.canaries.assert_absent("what was told", "\n".join(texts))
    watched.assert_database_is_clean()


async def test_what_we_own_shows_no_secret(watched: Watched) -> None:
    """No `repr` of the settings, or of any object built from them, contains a secret."""
    settings = Settings.from_env(watched.environment, "worker-1")
    worker = Worker(settings)
    worker.gemini.prepare()
    built = [settings, worker, *vars(worker).values(), Application(settings, worker), worker.project.storage]
    built += [
        part for whole in (worker.gemini, worker.project, worker.queue) for part in vars(whole).values()
    ]
    watched.canaries.assert_absent("a repr", "\n".join(map(repr, built)))
    await worker.close()
