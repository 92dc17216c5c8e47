"""Functions check their callers themselves, and row-level security holds, whatever is granted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from local.stack.postgres import Postgres
from tests.sql.test_access_api import OPEN, contents, row_for
from tests.support.access_table import FORBIDDEN, FUNCTIONS, TABLES, UNKNOWN, Scene
from tests.support.callers import Callers
from tests.support.databases import TODAY, Database, database
from tests.support.queue_sql import Connection, Queue, order, refused

# What Supabase grants by default, and what an operator may add who exposes our schema or follows a guide.
GENEROUS = """
    grant usage on schema generation to anon, authenticated;
    grant execute on all functions in schema public, generation to public, anon, authenticated;
    grant all on all tables in schema public, generation to anon, authenticated;
    grant all on all sequences in schema public, generation to anon, authenticated"""
FIRST = re.compile(r"\sbegin\s+perform generation\.require_(service|user)\(\);", re.DOTALL)
OURS = """
    select p.oid::regprocedure::text as signature, p.proname as name, n.nspname as schema, p.prosrc as body,
      p.prosecdef as definer, p.prorettype = 'trigger'::regtype as is_trigger,
      array(select format('null::%s', t::regtype) from unnest(p.proargtypes) as t) as arguments
    from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
    where n.nspname in ('public', 'generation')
      and not exists (select from pg_depend as d where d.objid = p.oid and d.deptype = 'e')"""


@pytest.fixture(scope="module")
def opened(postgres: Postgres) -> Iterator[Database]:
    """An installation where everybody was granted everything, and two users have ordered."""
    with database(postgres, TODAY) as made:
        queue = Queue(made.connection).open_gate()
        for user_id in ("user-1", "user-2"):
            queue.record(queue.claimed(user_id=user_id), 0)
        made.connection.execute(GENEROUS)
        yield made


@contextmanager
def acting(connection: Connection, role: str, sub: str | None = None) -> Iterator[Connection]:
    """The session as the API sets it for a request, while the context is open; then it is rolled back."""
    with connection.transaction(force_rollback=True):
        claims = f'{{"role": "{role}"' + (f', "sub": "{sub}"}}' if sub else "}")
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        connection.execute(f"set local role {role}".encode())
        yield connection


def ours(made: Database) -> list[Any]:
    """Every function of the installation."""
    return made.connection.execute(OURS.encode()).fetchall()


def error_of(connection: Connection, call: str) -> psycopg.Error | None:
    """The error that a statement ends with."""
    try:
        with connection.transaction():
            connection.execute(call.encode())
    except psycopg.Error as error:
        return error
    return None


def test_each_function_says_first_who_may_call_it(opened: Database) -> None:
    """Every function of the API begins with its guard; a new one without it fails here."""
    guards = {
        row["name"]: FIRST.search(" " + row["body"]) for row in ours(opened) if row["schema"] == "public"
    }
    assert {name for name, guard in guards.items() if guard is None} == set()
    for_users = {name for name, guard in guards.items() if guard and guard[1] == "user"}
    callers = opened.connection.execute("select * from generation.function_callers()").fetchall()
    signatures = [row["signature"] for row in ours(opened) if row["schema"] == "public"]
    assert sorted(row["signature"].replace(", ", ",") for row in callers) == sorted(signatures)
    assert for_users == {row["signature"].partition("(")[0] for row in callers if row["for_users"]}
    assert for_users == {name for name, f in FUNCTIONS.items() if "authenticated" in f.callers}


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_whoever_it_is_not_for_is_refused_though_granted(opened: Database, role: str) -> None:
    """With every grant given, users get into their own functions only, and anonymous callers into none."""
    for row in ours(opened):
        if row["schema"] != "public":
            continue
        with acting(opened.connection, role, "user-2") as connection:
            error = error_of(connection, f"select public.{row['name']}({', '.join(row['arguments'])})")
        mine = role in FUNCTIONS[row["name"]].callers
        refusal = (
            error is not None and error.sqlstate == "42501" and error.diag.message_detail == "not_allowed"
        )
        assert refusal == (not mine), (row["signature"], error)
        assert not refusal or (error and error.diag.message_hint), row["signature"]


def test_internal_functions_have_no_more_rights_than_their_caller(opened: Database) -> None:
    """In the internal schema only triggers run as their owner, and nobody can call those."""
    definers = [row for row in ours(opened) if row["schema"] == "generation" and row["definer"]]
    assert definers and all(row["is_trigger"] for row in definers)


def insert(table: str) -> str:
    """A row that the table would take from its owner, as far as row security looks at it."""
    if not table.startswith("public."):
        return f"insert into {table} default values"
    row = row_for(table, "user-2") | {"batchId": "b"} if "queue" in table else row_for(table, "user-2")
    columns = ", ".join(f'"{name}"' for name in row)
    return f"insert into {table} ({columns}) values ({', '.join(repr(value) for value in row.values())})"


@pytest.mark.parametrize("table", sorted(TABLES))
@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_row_security_holds_though_everything_is_granted(opened: Database, role: str, table: str) -> None:
    """With all privileges on all tables, users see only their own rows, and nobody writes any."""
    with acting(opened.connection, role, "user-2") as connection:
        seen = connection.execute(f"select * from {table}".encode()).fetchall()
        assert connection.execute(f"delete from {table}".encode()).rowcount == 0
        error = error_of(connection, insert(table))
        assert error is not None and error.sqlstate == "42501", error
    if role == "authenticated" and table.startswith("public."):
        assert {row["userId"] for row in seen} == {"user-2"}
    else:
        assert seen == []


def test_a_member_of_the_users_that_logs_in_by_itself_is_a_user(opened: Database) -> None:
    """An app's login that is a member of `authenticated` acts for itself only, without SET ROLE.

    It is refused what is not for users, whatever was granted to it. It names no user, so it cannot order, and
    existing batches do not exist for it.
    """
    connection = opened.connection
    (batch,) = connection.execute(
        "select id from photo_generation_batches where \"userId\" = 'user-1'"
    ).fetchall()
    connection.execute("create role app_reader login in role authenticated")
    try:
        connection.execute("set session authorization app_reader")
        for row in ours(opened):
            if row["schema"] == "public" and "authenticated" not in FUNCTIONS[row["name"]].callers:
                error = error_of(connection, f"select public.{row['name']}({', '.join(row['arguments'])})")
                assert error is not None and error.sqlstate == "42501", row["signature"]
        queue = Queue(connection)
        with refused("400", "not_yours_to_set", "userId"):
            queue.enqueue("user-1")
        request = order("user-1")
        del request["userId"]
        with refused("400", "missing"):
            queue.call("enqueue_generation_batch", p_request=request)
        for function in ("get_generation_batch", "cancel_generation_batch"):
            with refused("404", "no_such_batch"):
                queue.call(function, p_batch_id=batch["id"])
        assert connection.execute("select from photo_generation_batches").fetchall() == []
    finally:
        connection.execute("reset session authorization; drop role app_reader")


@pytest.mark.parametrize("member", ["inherit", "noinherit"])
def test_limits_bind_a_login_that_acts_for_a_user(opened: Database, member: str) -> None:
    """A login of the users' role that says for whom it acts has that user's limits, without any SET ROLE."""
    connection = opened.connection
    connection.execute(f"create role app_writer login {member} in role authenticated".encode())
    try:
        with connection.transaction(force_rollback=True):
            connection.execute('update generation.limits set "userImagesQueued" = 2')
            connection.execute("grant execute on function enqueue_generation_batch to app_writer")
            connection.execute("set session authorization app_writer")
            connection.execute("""select set_config('request.jwt.claims', '{"sub": "user-9"}', true)""")
            request = order("user-9", examples=3)
            del request["userId"]
            with refused("429", "user_queue_full"):
                Queue(connection).call("enqueue_generation_batch", p_request=request)
    finally:
        connection.execute("reset session authorization; drop role app_writer")


def test_those_who_run_the_queue_are_let_in(opened: Database) -> None:
    """The service role, the owner's session and a login of no user's role get into every function."""
    connection = opened.connection
    connection.execute("create role app_backend login")
    try:
        for who in ("set role service_role", "set role postgres", "set session authorization app_backend"):
            connection.execute(who.encode())
            assert "at" in Queue(connection).call("generation_queue_stats")
            connection.execute("reset session authorization; reset role")
    finally:
        connection.execute("reset session authorization; drop role app_backend")


def test_an_apps_function_gets_in_only_as_the_service_role(opened: Database) -> None:
    """What an app's function does for a user counts as the user's, unless it acts as the service role."""
    call = "language sql {} as 'select public.generation_queue_stats()'"
    with acting(opened.connection, "postgres") as connection:
        for name, right in (("app_owner", "security definer"), ("app_service", "set role = service_role")):
            connection.execute(f"create function {name}() returns jsonb {call.format(right)}".encode())
        connection.execute("set local role authenticated")
        error = error_of(connection, "select app_owner()")
        assert error is not None and error.sqlstate == "42501"
        assert error_of(connection, "select app_service()") is None


def test_a_key_without_a_login_gets_nowhere_through_the_api(
    queue: Queue, callers: Callers, scene: Scene
) -> None:
    """After a restore that opened every grant, the publishable key and a stranger's token change nothing."""
    before = contents(queue)
    functions = [name for name, function in FUNCTIONS.items() if "authenticated" not in function.callers]
    queue.connection.execute("grant execute on all functions in schema public to anon, authenticated")
    try:
        for name in functions:
            arguments = FUNCTIONS[name].arguments(scene)
            assert callers.anon.call(name, arguments) == UNKNOWN, name
            assert callers.stranger.call(name, arguments) == FORBIDDEN, name
    finally:
        queue.connection.execute("revoke all on all functions in schema public from anon")
        for name in functions:
            queue.connection.execute(f"revoke all on function {name} from authenticated".encode())
    assert OPEN and contents(queue) == before
