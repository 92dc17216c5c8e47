"""Access by request: each table and function of the API, asked by each kind of caller with a real token."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.access_table import CLOSED, FORBIDDEN, FUNCTIONS, OK, TABLES, UNEXPOSED, Rights, Scene
from tests.support.callers import Caller, Callers
from tests.support.queue_sql import Queue

OPEN = sorted(name for name, table in TABLES.items() if table is not CLOSED)
INTERNAL = sorted(name for name, table in TABLES.items() if table is CLOSED)
SHOWN = {"Prefer": "return=representation"}


def rights(table: str) -> dict[str, Rights]:
    """Each caller's rights by the access table: a stranger has the same rights as any user."""
    cells = TABLES[table]
    return {"anon": cells.anon, "owner": cells.user, "stranger": cells.user, "service": cells.service}


def path_of(table: str) -> str:
    """The API's path of a table."""
    return f"/rest/v1/{table.split('.')[1]}"


def row_for(table: str, user_id: str) -> dict[str, Any]:
    """A row that the table takes."""
    rows: dict[str, dict[str, Any]] = {
        "public.photo_generation_batches": {},
        "public.photo_generation_queue": {"exampleImageUrl": "training-photos/a/b.jpg", "basePrompt": "p"},
        "public.photo_generation_photos": {
            "jobId": 999, "batchId": "b", "imageIndex": 0, "storagePath": "p", "mimeType": "image/png",
            "width": 1, "height": 1, "bytes": 1, "model": "m",
        },
    }  # fmt: skip
    return {"userId": user_id, **rows[table]}


def contents(queue: Queue) -> list[Any]:
    """Every row of the tables that a user may read."""
    return [queue.connection.execute(f"select * from {table}".encode()).fetchall() for table in OPEN]


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("table", OPEN)
def test_each_caller_reads_only_the_rows_it_may_see(callers: Callers, table: str) -> None:
    """The access table says for each caller: no rows, their own, or all."""
    ids = {"owner": callers.owner_id, "stranger": callers.stranger_id}
    everybody = sorted(ids.values())
    for name, caller in callers.named().items():
        cell = rights(table)[name].rows
        answer = caller.ask("GET", path_of(table))
        if isinstance(cell, tuple):
            assert answer == cell, name
            continue
        assert answer == OK, name
        wanted = everybody if cell == "all" else [ids[name]]
        assert sorted(row["userId"] for row in caller.read) == wanted, name


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("table", OPEN)
def test_asking_for_somebody_elses_rows(callers: Callers, table: str) -> None:
    """A filter for another user's rows finds none; counting and ordering reveal nothing about them either."""
    path = f"{path_of(table)}?userId=eq.{callers.owner_id}"
    assert callers.stranger.ask("GET", path, Prefer="count=exact") == OK
    assert callers.stranger.read == []
    assert callers.stranger.answers[-1].headers["content-range"].endswith("/0")
    assert callers.stranger.ask("GET", f"{path_of(table)}?or=(userId.eq.{callers.owner_id},id.gt.0)") == OK
    assert {row["userId"] for row in callers.stranger.read} <= {callers.stranger_id}
    assert callers.owner.ask("GET", path) == OK
    assert len(callers.owner.read) == 1


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("table", OPEN)
@pytest.mark.parametrize("whose", ["owner", "stranger"])
def test_users_cannot_write_any_table(queue: Queue, callers: Callers, table: str, whose: str) -> None:
    """Users can write neither their own rows nor those of others."""
    user_id = getattr(callers, f"{whose}_id")
    before = contents(queue)
    mine = f"{path_of(table)}?userId=eq.{user_id}"
    for name in ("anon", "owner"):
        caller, cell = getattr(callers, name), rights(table)[name].write
        row = row_for(table, user_id)
        assert caller.ask("POST", path_of(table), row) == cell
        assert caller.ask("POST", path_of(table), row, Prefer="resolution=merge-duplicates") == cell
        assert caller.ask("PATCH", mine, {"userId": user_id}) == cell
        assert caller.ask("DELETE", mine) == cell
    assert contents(queue) == before


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("table", OPEN)
def test_the_service_role_writes_what_servers_of_an_app_write(callers: Callers, table: str) -> None:
    """The service role can insert jobs and delete rows of photos; functions do all other writes."""
    may, service = TABLES[table].service_may, callers.service
    row = row_for(table, callers.owner_id)
    assert service.ask("POST", path_of(table), row, **SHOWN) == (OK if "INSERT" in may else FORBIDDEN)
    mine = f"{path_of(table)}?userId=eq.{callers.owner_id}"
    assert service.ask("PATCH", mine, {"userId": "v"}, **SHOWN) == FORBIDDEN
    assert service.ask("DELETE", mine, **SHOWN) == (OK if "DELETE" in may else FORBIDDEN)


@pytest.mark.parametrize("table", INTERNAL)
def test_no_internal_table_is_reachable_through_the_api(callers: Callers, table: str) -> None:
    """With or without its schema, not even for the service role."""
    for name, caller in callers.named().items():
        for method, body in (("GET", None), ("POST", {}), ("PATCH", {}), ("DELETE", None)):
            named = {"Accept-Profile": "generation", "Content-Profile": "generation"}
            assert caller.ask(method, path_of(table), body, **named) == UNEXPOSED, name
            assert caller.ask(method, path_of(table), body)[0] == 404, name


def without_user(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a signed-in user, whose orders do not name a user."""
    return {
        name: {k: v for k, v in value.items() if k != "userId"} if name == "p_request" else value
        for name, value in arguments.items()
    }


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_each_caller_may_call_only_its_listed_functions(
    scene: Scene, callers: Callers, function: str
) -> None:
    """Each caller gets the answer that the access table lists, even with correct arguments."""
    cells = FUNCTIONS[function]
    arguments = cells.arguments(scene)
    assert callers.anon.call(function, arguments) == cells.anon
    assert callers.stranger.call(function, arguments) == cells.stranger
    assert callers.owner.call(function, without_user(arguments)) == cells.owner
    assert callers.service.call(function, arguments) == cells.service
    assert isinstance(callers.service.read, dict)


def test_no_internal_function_is_callable_through_the_api(queue: Queue, callers: Callers) -> None:
    """With or without its schema, not even for the service role."""
    names = queue.connection.execute(
        "select distinct proname as name from pg_proc where pronamespace = 'generation'::regnamespace"
    ).fetchall()
    assert len(names) > 30
    for row in names:  # the API looks a name up before it looks at rights
        assert callers.service.call(row["name"], {}) in ((404, "PGRST202"), (404, "42883")), row
    for caller in (callers.anon, callers.owner, callers.service):
        assert caller.call(row["name"], {}) in ((404, "PGRST202"), (404, "42883"))
        assert caller.call(row["name"], {}, **{"Content-Profile": "generation"}) == UNEXPOSED


def test_a_function_called_by_get(scene: Scene, callers: Callers) -> None:
    """A function that writes cannot be called by GET, so a link does nothing."""
    for caller in (callers.anon, callers.owner):
        path = f"/rest/v1/rpc/cancel_generation_batch?p_batch_id={scene.batch_id}"
        assert caller.ask("GET", path)[0] in (401, 405)
    assert callers.owner.call("get_generation_batch", {"p_batch_id": scene.batch_id}) == OK
    assert callers.owner.read["batch"]["status"] == "generating"


@pytest.mark.parametrize("field", ["userId", "priority", "maxAttempts"])
def test_fields_of_the_service_role(scene: Scene, callers: Callers, field: str) -> None:
    """A user who sets whose the order is, its priority or its attempts is refused, be it to their own id."""
    order = FUNCTIONS["enqueue_generation_batch"].arguments(scene)["p_request"]
    value = {"userId": callers.owner_id, "priority": 0, "maxAttempts": 5}[field]
    request = {**{k: v for k, v in order.items() if k != "userId"}, field: value}
    assert callers.owner.call("enqueue_generation_batch", {"p_request": request}) == (400, "PT400")
    told = callers.owner.read
    assert (told["details"], field in told["message"]) == ("not_yours_to_set", True)


@pytest.mark.parametrize("function", ["get_generation_batch", "cancel_generation_batch"])
def test_a_foreign_batch_is_as_one_that_is_not_there(scene: Scene, callers: Callers, function: str) -> None:
    """Somebody else's batch and one that never was are answered alike, to the letter."""

    def told(caller: Caller, batch_id: str) -> tuple[int, Any]:
        caller.call(function, {"p_batch_id": batch_id})
        return caller.answers[-1].status_code, caller.read

    foreign = told(callers.stranger, scene.batch_id)
    assert foreign == told(callers.stranger, "00000000-0000-4000-8000-000000000000")
    assert foreign[0] == 404
    assert scene.batch_id not in str(foreign)
