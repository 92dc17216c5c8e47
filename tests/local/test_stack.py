"""The local stack is what tests and demo take it for: real roles, real JSON, gone when its owner is."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from PIL import Image
from postgrest.exceptions import APIError
from psycopg.rows import DictRow
from supabase import AsyncClient

from local.demo.photographs import photographs
from local.stack.errors import StackError
from local.stack.postgres import Postgres
from local.stack.stack import Stack
from tests.support.installation import User

ROOT = Path(__file__).resolve().parents[2]
OWNER = """
import sys, time
from pathlib import Path
from local.stack.stack import Stack
with Stack(Path(sys.argv[1]), durable=False) as stack:
    stack.psql(sys.argv[2])
    print(*stack.pids, flush=True)
    if sys.argv[3] == "raise":
        raise ZeroDivisionError
    time.sleep(600)
"""
GUARDED = """
import signal, sys, time
from pathlib import Path
from local.stack.folder import Folder
from local.stack.processes import Process
command = ["/bin/sleep", "600"]
process = Process("sleep", command, Folder(Path(sys.argv[1])), last_signal=signal.SIGKILL, kernel_tells=False)
print(process.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def functions(stack: Stack) -> Iterator[None]:
    """Two more functions, removed after the test."""
    stack.psql("""
        create function public.stack_kind(p_value jsonb) returns text
        language sql as 'select jsonb_typeof(p_value)';
        create function public.stack_secret() returns text language sql as 'select current_user::text';
        revoke execute on function public.stack_secret() from public, anon, authenticated;""")
    stack.supabase.restart()
    yield
    stack.psql("drop function public.stack_kind(jsonb); drop function public.stack_secret()")


async def refused(client: AsyncClient, function: str) -> str | None:
    """The SQLSTATE that the function answers the client with."""
    with pytest.raises(APIError) as caught:
        await client.rpc(function).execute()
    return caught.value.code


async def test_a_revoked_function_runs_only_for_the_secret_key(
    functions: None, service: AsyncClient, anyone: AsyncClient, user: Callable[[], Awaitable[User]]
) -> None:
    """Anonymous and signed-in users get 42501; the secret key acts as service_role."""
    assert (await service.rpc("stack_secret").execute()).data == "service_role"
    assert await refused(anyone, "stack_secret") == "42501"
    assert await refused((await user()).client, "stack_secret") == "42501"


@pytest.mark.parametrize(
    ("value", "kind"), [({"a": [1]}, "object"), ([1, "2"], "array"), ({}, "object"), (7, "number")]
)
async def test_a_jsonb_argument_keeps_its_json_type(
    functions: None, anyone: AsyncClient, value: object, kind: str
) -> None:
    """The argument does not arrive as a string that contains JSON."""
    assert (await anyone.rpc("stack_kind", {"p_value": value}).execute()).data == kind


async def test_the_stack_enforces_row_level_security(
    stack: Stack, db: psycopg.Connection[DictRow], user: Callable[[], Awaitable[User]]
) -> None:
    """Users see only their own rows, by the subject of their token."""
    one, other = await user(), await user()
    db.execute("""
        create table public.stack_notes (owner text, note text);
        alter table public.stack_notes enable row level security;
        create policy own on public.stack_notes for select using ((select auth.jwt() ->> 'sub') = owner)""")
    try:
        stack.supabase.restart()
        db.execute("insert into public.stack_notes values (%s, 'mine'), (%s, 'theirs')", [one.id, other.id])
        assert (await one.client.table("stack_notes").select("note").execute()).data == [{"note": "mine"}]
    finally:
        db.execute("drop table public.stack_notes")


def own(folder: Path, sql: str, then: str) -> subprocess.Popen[str]:
    """Another Python process that owns a stack in the folder, has run the SQL, and then sleeps or raises."""
    command = [sys.executable, "-c", OWNER, str(folder), sql, then]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def pids_of(owner: subprocess.Popen[str]) -> list[int]:
    """The process ids that the owner prints once its stack is up."""
    assert owner.stdout is not None
    return [int(word) for word in owner.stdout.readline().split()]


def is_running(pid: int) -> bool:
    """Whether the process exists and is not merely waiting to be reaped by init."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def wait_until_gone(pids: list[int], seconds: float = 20.0) -> None:
    """Fails when one of the processes is still there after the time."""
    deadline = time.monotonic() + seconds
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still running: {[pid for pid in pids if is_running(pid)]}"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_owner_takes_its_servers_down_and_keeps_the_data(tmp_path: Path) -> None:
    """The next start on the folder finds it, although only its owner may read the folder."""
    assert tmp_path.parent.stat().st_mode & 0o077 == 0
    with own(tmp_path, "create table public.kept as select 1 as one", "sleep") as owner:
        pids = pids_of(owner)
        owner.kill()
    assert len(pids) == 2
    wait_until_gone(pids)
    with Stack(tmp_path, durable=False) as stack:
        assert stack.psql("select one from public.kept") == "1"
        assert str(stack.supabase.call("/rest/v1/kept", key=stack.publishable_key)) == "[{'one': 1}]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("then", "sent"), [("sleep", signal.SIGTERM), ("sleep", signal.SIGINT), ("raise", 0)]
)
def test_an_ended_owner_takes_its_servers_down(tmp_path: Path, then: str, sent: int) -> None:
    """By SIGTERM, Ctrl-C or an exception."""
    with own(tmp_path, "select 1", then) as owner:
        pids = pids_of(owner)
        owner.send_signal(sent)
    wait_until_gone(pids)


@pytest.mark.slow
def test_address_and_keys_stay(tmp_path: Path) -> None:
    """A stack comes back under the same address, with the same keys and users."""
    with Stack(tmp_path, durable=False) as stack:
        before = (stack.url, stack.db_url, stack.secret_key, stack.publishable_key, stack.jwt_secret)
        user_id, _ = stack.sign_up()
    with Stack(tmp_path, durable=False) as stack:
        assert (stack.url, stack.db_url, stack.secret_key, stack.publishable_key, stack.jwt_secret) == before
        assert stack.psql("select id from auth.users") == user_id


RIGHTS = """
    select kind, name, array(select r::text from unnest(rights) as r order by 1) as rights
    from (
      select 'relation' as kind, oid::regclass::text as name, relacl as rights, relnamespace as space
      from pg_class
      union all select 'function', oid::regprocedure::text, proacl, pronamespace from pg_proc
      union all select 'schema', nspname, nspacl, oid from pg_namespace
      union all select 'default', defaclrole::regrole || ' ' || defaclobjtype::text, defaclacl,
        defaclnamespace
      from pg_default_acl
    ) as found
    where space in ('public'::regnamespace, 'generation'::regnamespace, 'storage'::regnamespace)
    order by 1, 2"""
OPENED = """
    grant usage on schema generation to anon;
    grant all on all tables in schema generation to anon, authenticated;
    grant all on all tables in schema public to anon, authenticated;
    grant execute on all functions in schema public to anon;"""


def rights(stack: Stack) -> str:
    """The rights of each role after the API server's first query, which sets its own grants."""
    for table in ("photo_generation_queue", "photo_generation_batches"):
        stack.supabase.call(f"/rest/v1/{table}?limit=1")
    return stack.psql(RIGHTS)


@pytest.mark.slow
def test_rights_are_as_installed_after_every_start(tmp_path: Path) -> None:
    """A stack that is started again, or whose API server is, has the rights that its SQL gave, no more."""
    before = ""
    for start in range(3):
        with Stack(tmp_path, durable=False) as stack:
            for _ in range(2):
                now = rights(stack)
                assert stack.psql("select public.generation_access_findings() -> 'findings'") == "[]"
                assert now == (before or now), start
                before = now
                stack.supabase.restart()
            stack.psql(OPENED)


@pytest.mark.slow
def test_nobody_else_reads_what_the_stack_keeps(tmp_path: Path) -> None:
    """Only the owner can read keys, passwords and logs, even if an older stack left them open."""
    for name in ("lite.log", "kept.json.new", "postgres.log"):
        (tmp_path / name).touch(mode=0o644)
    tmp_path.chmod(0o755)
    umask = os.umask(0o022)
    try:
        with Stack(tmp_path, durable=False) as stack:
            stack.sign_up()
            paths = [tmp_path, *tmp_path.rglob("*")]
            assert {"config.toml", "lite.log", "postgres.log", "kept.json"} <= {path.name for path in paths}
            assert [path for path in paths if path.stat().st_mode & 0o077] == []
    finally:
        os.umask(umask)


def test_one_at_a_time(stack: Stack) -> None:
    """A second stack on the same folder is refused by name of the process that has it, at once."""
    with pytest.raises(StackError, match=f"process {os.getpid()}"):
        Stack(stack.postgres.folder.path).start()


@pytest.mark.slow
def test_a_taken_port_is_replaced_by_another(tmp_path: Path) -> None:
    """The folder remembers the new port."""
    with Postgres(tmp_path / "one", durable=False) as one:
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "kept.json").write_text(f'{{"postgres18_port": "{one.port}"}}')
        with Postgres(tmp_path / "two", durable=False) as two:
            assert two.port != one.port
            assert two.psql("select 1") == "1"


def test_postgresql_16_starts_on_its_own(tmp_path: Path) -> None:
    """For SQL that must run there too."""
    with Postgres(tmp_path, version=16, durable=False) as postgres:
        assert postgres.psql("show server_version_num").startswith("16")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes to another user")
def test_postgresql_runs_as_nobody_where_nobody_may_not_read(tmp_path: Path) -> None:
    """Started by root, it works even if programs and data are in closed folders."""
    assert tmp_path.parent.stat().st_mode & 0o077 == 0
    postgres = Postgres(tmp_path / "data", durable=False)
    package = postgres.bin.parent.parent
    shutil.copytree(postgres.bin.parent, tmp_path / package.name / postgres.bin.parent.name)
    shutil.copytree(package.with_suffix(".libs"), tmp_path / f"{package.name}.libs")
    postgres.bin = tmp_path / package.name / postgres.bin.parent.name / "bin"
    with postgres:
        assert (tmp_path / "data" / "postgres18").stat().st_uid == pwd.getpwnam("nobody").pw_uid
        assert postgres.psql("select 1") == "1"


def test_the_demos_photographs_are_installed() -> None:
    """The files are valid images."""
    sizes = {}
    for name, path in photographs().items():
        with Image.open(path) as image:
            sizes[name] = image.size
    assert sizes == {"astronaut.png": (512, 512), "china.jpg": (640, 427), "flower.jpg": (640, 427)}


def test_a_failed_start_says_why_and_leaves_the_folder_unlocked(tmp_path: Path) -> None:
    """The error quotes the server's log and says what to do."""
    postgres = Postgres(tmp_path, durable=False)
    postgres.data.mkdir()
    (postgres.data / "PG_VERSION").write_text("9.6\n")
    for _ in range(2):
        with pytest.raises(StackError, match=r"(?s)postgres ended with .*make clean"):
            postgres.start()


def test_wrong_sql_is_an_error_in_the_databases_words(stack: Stack) -> None:
    """The error quotes PostgreSQL."""
    with pytest.raises(StackError, match=r'relation "public\.nothing" does not exist'):
        stack.psql("select * from public.nothing")


@pytest.mark.slow
def test_a_shell_ends_the_process_if_the_kernel_cannot(tmp_path: Path) -> None:
    """When its owner is killed."""
    command = [sys.executable, "-c", GUARDED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        pids = pids_of(owner)
        owner.kill()
    wait_until_gone(pids)
