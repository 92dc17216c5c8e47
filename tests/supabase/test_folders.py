"""Folders as Supabase Storage itself lists them: names within the folder, folders without id, in pages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.wire import Asked, Script, Wire, listening, reply
from worker.errors import Misconfigured, QueueUnavailable
from worker.log.secret import Secret
from worker.ops.sweep import Sweep
from worker.supabase import folders as module
from worker.supabase.client import Project
from worker.supabase.folders import Folders
from worker.supabase.queue import Queue


class Storage:
    """How Supabase Storage lists and removes objects, and the database functions of a sweep."""

    def __init__(self, *paths: str) -> None:
        self.paths = set(paths)
        self.jobs: list[dict[str, Any]] = []
        self.swept: list[int] = []

    def answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        method, target, _ = asked.line.split(" ")
        script = self._script(method, target, json.loads(asked.body or b"{}"))
        script(asked, writer)

    def _script(self, method: str, target: str, body: dict[str, Any]) -> Script:
        if method == "DELETE":
            gone = [path for path in body["prefixes"] if path in self.paths]
            self.paths -= set(gone)
            return reply("200 OK", [{"name": path, "id": path} for path in gone])
        if "/object/list/" in target:
            found = self._entries(body["prefix"].removesuffix("/") + "/")
            return reply("200 OK", found[body["offset"] : body["offset"] + body["limit"]])
        if target.endswith("/generation_jobs_to_sweep"):
            given, self.jobs = self.jobs, []
            return reply("200 OK", {"jobs": given})
        if target.endswith("/settle_swept_generation_jobs"):
            self.swept += body["p_job_ids"]
            return reply("200 OK", {"swept": len(body["p_job_ids"])})
        return reply("200 OK", {"folders": [], "done": not self.paths})

    def _entries(self, prefix: str) -> list[dict[str, Any]]:
        """Objects right in the folder, and the folders in it, by name."""
        rests = {path.removeprefix(prefix) for path in self.paths if path.startswith(prefix)}
        names = {rest.split("/")[0]: "/" not in rest for rest in rests}
        return [
            {"name": name, "id": name if is_object else None, "metadata": {"size": 7} if is_object else None}
            for name, is_object in sorted(names.items())
        ]


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A server whose answers a test decides on."""
    async with listening() as opened:
        yield opened


@pytest.fixture
async def project(wire: Wire) -> AsyncIterator[Project]:
    """A project at the server."""
    opened = Project(wire.url, Secret("sb_secret_of_a_test"))
    yield opened
    await opened.close()


def sweep(project: Project) -> Sweep:
    """A sweep that has plenty of time."""
    return Sweep(Queue(project, "w"), Folders(project), lambda: 0.0, 60.0, asyncio.Event())


async def test_a_users_folder_is_emptied_to_the_bottom(
    wire: Wire, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every object below the folder goes, at any depth and page; what only begins the same stays."""
    monkeypatch.setattr(module, "PAGE", 2)
    inside = {f"u/{batch}/{job}/{name}" for batch in "ab" for job in "12" for name in "xyz"} | {"u/loose"}
    storage = Storage(*inside, "u0/a/1/x", "other/u/1/x")
    wire.answer = storage.answer
    done = await sweep(project).empty("u")
    assert storage.paths == {"u0/a/1/x", "other/u/1/x"}
    assert (done["objectsRemoved"], done["bytesRemoved"]) == (len(inside), 7 * len(inside))


async def test_every_page_of_a_jobs_folder_is_swept(
    wire: Wire, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strays on later pages go too, and neither a recorded photo nor anything in a folder inside."""
    monkeypatch.setattr(module, "PAGE", 3)
    paths = [f"u/b/1/{index}-{'0' * 15}{copy}" for index in range(5) for copy in range(2)]
    storage = Storage(*paths, "u/b/1/sub/0-" + "0" * 16, "u/b/12/0-" + "0" * 16)
    storage.jobs = [{"id": 1, "folder": "u/b/1", "recorded": paths[::2]}]
    wire.answer = storage.answer
    done = await sweep(project).run(100)
    assert storage.paths == {*paths[::2], "u/b/1/sub/0-" + "0" * 16, "u/b/12/0-" + "0" * 16}
    assert (done["objectsRemoved"], storage.swept, done["more"]) == (5, [1], False)


async def test_what_cannot_be_removed_ends_the_emptying(wire: Wire, project: Project) -> None:
    """If Storage lists an object but does not remove it, emptying ends, and the folder is not empty."""
    storage = Storage("u/a/1/x")
    wire.answer = lambda asked, writer: (
        reply("200 OK", []) if asked.line.startswith("DELETE") else storage.answer
    )(asked, writer)
    done = await sweep(project).empty("u")
    assert (done["objectsRemoved"], done["erasuresDone"]) == (0, 0)


async def test_a_listing_that_names_other_folders(wire: Wire, project: Project) -> None:
    """Whatever a server answers, nothing outside of the folder is taken for its content."""
    entries = [{"name": name, "id": "1"} for name in ("v/b/1/x", "u/b/12/y", "u/b/1/z", "u/b/1")]
    wire.answer = reply("200 OK", entries)
    page = await Folders(project).page("u/b/1", 0, 10.0)
    assert [each.path for each in page.objects] == ["u/b/1/z"]
    assert json.loads(wire.asked[-1].body)["prefix"] == "u/b/1/"


@pytest.mark.parametrize(
    ("status", "error"), [("500", QueueUnavailable), ("403", Misconfigured), ("404", Misconfigured)]
)
async def test_a_refused_listing_means_what_it_means_elsewhere(
    wire: Wire, project: Project, status: str, error: type[Exception]
) -> None:
    """A wrong key stops the sweep; an outage is retried."""
    body = {"statusCode": status, "error": "x", "message": "x"}
    wire.answer = reply("400 Bad Request", body)
    with pytest.raises(error):
        await Folders(project).page("u", 0, 10.0)


async def test_a_wrong_key_ends_the_sweep(wire: Wire, project: Project) -> None:
    """A sweep that Storage lets do nothing fails as misconfigured, and calls no folder swept."""
    storage = Storage()
    storage.jobs = [{"id": 1, "folder": "u/b/1", "recorded": []}]
    refusal = reply("400 Bad Request", {"statusCode": "403", "error": "x", "message": "x"})
    wire.answer = lambda asked, writer: (refusal if "/object/" in asked.line else storage.answer)(
        asked, writer
    )
    with pytest.raises(Misconfigured):
        await sweep(project).run(10)
    assert storage.swept == []
