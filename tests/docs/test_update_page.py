"""docs/update.md is true: its commands run in its order, and leave what it says."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from local.stack.stack import Stack
from tests.support.databases import Database
from tests.support.installation import connect
from tests.support.queue_sql import Queue
from tests.support.schedule_sql import prepare

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "update.md").read_text()
FENCE = re.compile(r"^ *```(.+)\n((?:.*\n)*?) *```$", re.MULTILINE)
KINDS = {"sh clone", "sh database", "sh clock", "sh laptop", "sh storage", "sql vault"}
FUNCTIONS = "select count(*) as left from pg_proc where pronamespace = 'public'::regnamespace"


def blocks(kind: str) -> list[str]:
    """The page's commands of a kind, in its order."""
    return [textwrap.dedent(text) for info, text in FENCE.findall(PAGE) if info == kind]


def shell(commands: str, **variables: str) -> str:
    """The output of the commands in the clone; each must succeed."""
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_is_accounted_for() -> None:
    """A block is run here or, for fetching and for packages, by the tests of the page it is from."""
    assert {info for info, _ in FENCE.findall(PAGE)} == KINDS
    assert [len(blocks(kind)) for kind in ("sh database", "sh storage", "sql vault")] == [3, 1, 1]
    sources = [(ROOT / page).read_text() for page in ("README.md", "docs/vm.md", "sql/README.md")]
    for line in "".join([*blocks("sh clone"), *blocks("sh laptop")]).splitlines():
        assert any(line in source for source in sources), line


def test_updates_and_uninstalls_in_the_database(installed: Database) -> None:
    """An update keeps waiting jobs; the two steps of uninstalling leave the tables, then nothing."""
    path = f"{installed.postgres.bin}:{os.environ['PATH']}"
    update, uninstall, with_tables = blocks("sh database")
    queue = Queue(installed.connection).open_gate()
    queue.enqueue()
    shell(update, PATH=path, DATABASE_URL=installed.url)
    assert len(queue.run().claim()) == 1
    left = []
    for step in (uninstall, with_tables):
        shell(step, PATH=path, DATABASE_URL=installed.url)
        (functions,) = installed.connection.execute(FUNCTIONS).fetchall()
        assert functions["left"] == 0
        tables = installed.connection.execute("select to_regclass('public.photo_generation_queue') as queue")
        left.append(tables.fetchall()[0]["queue"])
    assert left == ["photo_generation_queue", None]


def test_the_vaults_secrets_go(installed: Database) -> None:
    """The statement finds both secrets under the names that the clock gave them."""
    prepare(installed.connection)
    (statement,) = blocks("sql vault")
    assert installed.connection.execute(statement.encode()).rowcount == 2


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Stack]:
    """A separate project, since its bucket is deleted."""
    with Stack(tmp_path, durable=False) as stack:
        yield stack


@pytest.mark.system
def test_the_photos_go_with_their_bucket(project: Stack, program: Callable[[str, str], str]) -> None:
    """After the curl commands, neither photos nor the bucket exist."""
    program("curl", "curl")
    key = {"apikey": project.secret_key, "Authorization": f"Bearer {project.secret_key}"}
    photo = f"{project.url}/storage/v1/object/generated-photos/user/batch/1/0-sha"
    put = httpx.post(photo, headers={**key, "Content-Type": "image/png"}, content=b"\x89PNG\r\n\x1a\n")
    assert put.status_code == 200, put.text
    (commands,) = blocks("sh storage")
    shell(
        commands,
        PATH=os.environ["PATH"],
        SUPABASE_URL=project.url,
        SUPABASE_SERVICE_ROLE_KEY=project.secret_key,
    )
    with connect(project.db_url) as db:
        count = (
            "select (select count(*) from storage.objects) + (select count(*) from storage.buckets) as left"
        )
        assert db.execute(count).fetchall() == [{"left": 0}]
