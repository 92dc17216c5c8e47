"""Access: who may call what is decided function by function, and everyone sees their own rows only."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from postgrest.exceptions import APIError
from supabase import AsyncClient

from tests.conftest import User
from tests.queue_sql import Connection, Queue, order, refused

pytest_plugins = ("tests.queue_fixtures",)
pytestmark = pytest.mark.usefixtures("as_installed")

ROLES = ("anon", "authenticated", "service_role")
TABLES = ("photo_generation_batches", "photo_generation_queue", "photo_generation_photos")
PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
UUID = "00000000-0000-0000-0000-000000000001"

USERS_MAY_CALL = {"enqueue_generation_batch", "get_generation_batch", "cancel_generation_batch"}
# function: parameters for a call that must not get through
SERVICE_ONLY: dict[str, dict[str, Any]] = {
    "claim_generation_jobs": {
        "p_run_id": UUID,
        "p_worker_id": "w",
        "p_claim_id": UUID,
        "p_max_jobs": 1,
        "p_run_seconds": 60,
        "p_model": "m",
    },
    "record_generated_photo": {"p_job_id": 1, "p_image_index": 0, "p_photo": {}},
    "record_failed_image": {"p_job_id": 1, "p_image_index": 0, "p_code": "c", "p_message": "m"},
    "settle_generation_jobs": {"p_results": []},
    "finish_generation_run": {"p_run_id": UUID, "p_worker_id": "w", "p_summary": {}, "p_spent_jobs": []},
    "generation_schema_version": {},
    "release_stale_generation_jobs": {"p_older_than_seconds": 300},
    "retry_failed_generation_jobs": {"p_batch_id": None, "p_including_refused": False, "p_limit": 10},
    "peek_generation_jobs": {"p_max_jobs": 10},
    "generation_queue_stats": {},
    "set_generation_model_successor": {"p_model": "a", "p_successor": "b"},
    "take_start_slots": {"p_run_id": UUID, "p_model": "m", "p_slots": 1},
    "report_rate_limit": {"p_model": "m", "p_facts": {"period": "day"}, "p_epoch": None},
    "set_generation_rate": {"p_model": "m", "p_rate": 10},
    "set_generation_limits": {"p_limits": {"imagesPerDay": 0}},
    "pause_generation": {"p_reason": "x"},
    "resume_generation": {},
    "generation_gate": {},
    "generation_jobs_to_sweep": {"p_limit": 1},
    "settle_swept_generation_jobs": {"p_job_ids": []},
    "prune_generation_history": {"p_older_than_days": 1, "p_limit": 1},
    "erase_generation_user": {"p_user_id": "u"},
    "generation_erasures_to_sweep": {"p_limit": 1},
    "settle_generation_erasure": {"p_user_folder": "u", "p_empty": True},
}
FUNCTIONS = """
    select p.oid::regprocedure::text as signature, p.proname as name, n.nspname as schema,
      p.prosecdef as definer, p.proconfig as config, r.role,
      has_function_privilege(r.role, p.oid, 'execute') as may
    from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
    cross join unnest(array['anon', 'authenticated', 'service_role']) as r (role)
    where n.nspname in ('public', 'generation')
      and not exists (select from pg_depend as d where d.objid = p.oid and d.deptype = 'e')"""
RELATIONS = """
    select c.relname as name, n.nspname as schema, r.role, v.privilege, c.relrowsecurity as secured,
      has_table_privilege(r.role, c.oid, v.privilege) as may
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    cross join unnest(array['anon', 'authenticated', 'service_role']) as r (role)
    cross join unnest(%s::text[]) as v (privilege)
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
      and (n.nspname = 'generation' or n.nspname = 'public' and c.relname like '%%generation%%')"""


def callers(name: str, schema: str) -> set[str]:
    """Who may call a function, as we have decided; a function nobody decided about is an error."""
    if schema == "generation":
        return set()
    if name in USERS_MAY_CALL:
        return {"authenticated", "service_role"}
    assert name in SERVICE_ONLY, f"decide who may call {name}"
    return {"service_role"}


def test_function_grants(db: Connection) -> None:
    """Each function can be called by exactly those we decided on, whatever Supabase's defaults grant."""
    rows = db.execute(FUNCTIONS).fetchall()
    for row in rows:
        assert row["may"] == (row["role"] in callers(row["name"], row["schema"])), row
    found = {row["name"] for row in rows if row["schema"] == "public"}
    assert found == USERS_MAY_CALL | SERVICE_ONLY.keys()


def test_functions_are_safe(db: Connection) -> None:
    """Every function pins its search path; only those of the API run as their owner."""
    for row in db.execute(FUNCTIONS).fetchall():
        assert 'search_path=""' in (row["config"] or []), row["signature"]
        trigger = row["name"] == "adopt_inserted_job"
        assert row["definer"] == (row["schema"] == "public" or trigger), row["signature"]


def test_table_grants(db: Connection) -> None:
    """On the public tables users may select and the service role do all; on internal ones nobody anything."""
    rows = db.execute(RELATIONS, [list(PRIVILEGES)]).fetchall()
    assert {row["name"] for row in rows if row["schema"] == "public"} == set(TABLES)
    for row in rows:
        assert row["secured"], f"{row['name']} has no row-level security"
        wanted = row["schema"] == "public" and (
            row["role"] == "service_role" or (row["role"] == "authenticated" and row["privilege"] == "SELECT")
        )
        assert row["may"] == wanted, row


def test_internal_schema_is_closed(db: Connection) -> None:
    """Nobody but the owner gets into the internal schema."""
    for role in ROLES:
        found = db.execute("select has_schema_privilege(%s, 'generation', 'usage, create') as may", [role])
        assert found.fetchall() == [{"may": False}]


async def code(request: Any) -> str | None:
    """The error code a request is answered with."""
    with pytest.raises(APIError) as caught:
        await request.execute()
    return caught.value.code


async def answer(request: Any) -> Any:
    """What a request is answered with."""
    return (await request.execute()).data


async def test_service_functions_are_closed(
    db: Connection, anyone: AsyncClient, user: Callable[[], Awaitable[User]]
) -> None:
    """Neither anyone nor a user gets through to a function of the worker or the operator."""
    signed_in = (await user()).client
    for name, parameters in SERVICE_ONLY.items():
        assert await code(anyone.rpc(name, parameters)) == "42501", name
        assert await code(signed_in.rpc(name, parameters)) == "42501", name


async def test_anyone_orders_nothing(db: Connection, anyone: AsyncClient) -> None:
    """Who has not signed in neither orders nor sees nor cancels anything."""
    assert await code(anyone.rpc("enqueue_generation_batch", {"p_request": order()})) == "42501"
    for name in ("get_generation_batch", "cancel_generation_batch"):
        assert await code(anyone.rpc(name, {"p_batch_id": "x"})) == "42501"
    for table in TABLES:
        assert await code(anyone.table(table).select("*")) == "42501"


async def test_internal_functions_are_unreachable(
    db: Connection, service: AsyncClient, anyone: AsyncClient
) -> None:
    """The internal schema is not exposed, not even to the service role."""
    for client in (service, anyone):
        assert await code(client.schema("generation").rpc("clock", {})) == "PGRST106"
        assert await code(client.schema("generation").table("runs").select("*")) == "PGRST106"
        assert await code(client.rpc("roll_up", {"p_changes": []})) in ("PGRST202", "42883")


async def photographed(queue: Queue, someone: User) -> str:
    """A batch ordered by a user themselves, with one photo made; its id."""
    request = {key: value for key, value in order(someone.id, images=2).items() if key != "userId"}
    ordered = await answer(someone.client.rpc("enqueue_generation_batch", {"p_request": request}))
    queue.record(queue.run().claim()[0], 0)
    return str(ordered["batchId"])


async def test_own_rows_only(queue: Queue, user: Callable[[], Awaitable[User]]) -> None:
    """A user sees their own batches, jobs and photos, and none of anybody else's."""
    mine, other = await user(), await user()
    for someone in (mine, other):
        await photographed(queue, someone)
    for table in TABLES:
        rows = await answer(mine.client.table(table).select("*"))
        assert [row["userId"] for row in rows] == [mine.id], table
        assert await answer(mine.client.table(table).select("*").eq("userId", other.id)) == []


async def test_foreign_batches(queue: Queue, user: Callable[[], Awaitable[User]]) -> None:
    """Somebody else's batch is not there: it can neither be seen nor cancelled; one's own can."""
    mine, other = await user(), await user()
    batch_id = await photographed(queue, mine)
    for name in ("get_generation_batch", "cancel_generation_batch"):
        assert await code(other.client.rpc(name, {"p_batch_id": batch_id})) == "PT404"
    shown = await answer(mine.client.rpc("get_generation_batch", {"p_batch_id": batch_id}))
    assert (shown["batch"]["userId"], len(shown["photos"])) == (mine.id, 1)
    cancelled = await answer(mine.client.rpc("cancel_generation_batch", {"p_batch_id": batch_id}))
    assert (cancelled["status"], cancelled["jobsCancelled"]) == ("cancelled", 1)


async def test_users_write_nothing(queue: Queue, user: Callable[[], Awaitable[User]]) -> None:
    """A user cannot insert, change or delete rows, not even their own."""
    mine = await user()
    await photographed(queue, mine)
    before = [queue.connection.execute(f"select * from {table}").fetchall() for table in TABLES]
    for name in TABLES:
        table = mine.client.table(name)
        assert await code(table.insert({"userId": mine.id})) == "42501"
        assert await code(table.update({"userId": "x"}).eq("userId", mine.id)) == "42501"
        assert await code(table.delete().eq("userId", mine.id)) == "42501"
    assert [queue.connection.execute(f"select * from {table}").fetchall() for table in TABLES] == before


@pytest.fixture
def moderator(queue: Queue) -> Iterator[None]:
    """A role of the app's own, which may do what users may."""
    queue.connection.execute("create role moderator in role authenticated")
    yield
    queue.connection.execute("reset role; drop role moderator")


def test_roles_of_an_apps_own(queue: Queue, moderator: None) -> None:
    """A role of the app's own acts for itself only, as users do."""
    batch_id = queue.enqueue("user-1")["batchId"]
    queue.connection.execute("set role moderator")
    queue.connection.execute("""select set_config('request.jwt.claims', '{"sub": "user-2"}', false)""")
    with refused("400", "not_yours_to_set", "userId"):
        queue.enqueue("user-1")
    with refused("404", "no_such_batch"):
        queue.call("cancel_generation_batch", p_batch_id=batch_id)


@pytest.mark.parametrize("role", ["service_role", "postgres", "none"])
def test_roles_of_operators(queue: Queue, role: str) -> None:
    """The service role, and an operator in a SQL session, act for everybody."""
    queue.connection.execute(f"set role {role}".encode())
    batch_id = queue.enqueue("user-1")["batchId"]
    assert queue.call("cancel_generation_batch", p_batch_id=batch_id)["status"] == "cancelled"
