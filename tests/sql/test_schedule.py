"""The files of sql/schedule refuse with a fix, can be run again, and can be undone completely."""

import secrets
from collections.abc import Iterator

import psycopg
import pytest

from local.install_sql import SQL
from local.stack.postgres import Postgres
from tests.support import catalog
from tests.support.databases import TODAY, Database, database
from tests.support.pg_net import STORE, install, store_secret
from tests.support.queue_sql import Connection, Queue
from tests.support.schedule_sql import SECRET, URL, paste, prepare, requests

# pg_net 0.20 (sql/pg_net.sql in supabase/pg_net; unchanged from 0.8 to 0.20.6), as PostgreSQL prints it.
HTTP_POST = (
    "url text, body jsonb DEFAULT '{}'::jsonb, params jsonb DEFAULT '{}'::jsonb, "
    """headers jsonb DEFAULT '{"Content-Type": "application/json"}'::jsonb, """
    "timeout_milliseconds integer DEFAULT 5000",
    "bigint",
)
TABLES = {
    "net.http_request_queue": "id bigint, method net.http_method, url text, headers jsonb, body bytea, "
    "timeout_milliseconds integer",
    "net._http_response": "id bigint, status_code integer, content_type text, headers jsonb, content text, "
    "timed_out boolean, error_msg text, created timestamp with time zone",
    "vault.secrets": "id uuid, name text, description text, secret text, key_id uuid, nonce bytea, "
    "created_at timestamp with time zone, updated_at timestamp with time zone",
    "vault.decrypted_secrets": "id uuid, name text, description text, secret text, decrypted_secret text, "
    "key_id uuid, nonce bytea, created_at timestamp with time zone, updated_at timestamp with time zone",
}
COLUMNS = """
    select string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum) as columns
    from pg_attribute where attrelid = %s::regclass and attnum > 0"""


def refusal(scratch: Database, name: str) -> tuple[str, str]:
    """The message and the hint with which a file is refused; that nothing was made."""
    before = catalog.schema(scratch.connection)
    with pytest.raises(psycopg.errors.RaiseException) as caught:
        paste(scratch.connection, name)
    assert catalog.schema(scratch.connection) == before
    return caught.value.diag.message_primary or "", caught.value.diag.message_hint or ""


def test_the_stand_ins_have_the_shape_of_pg_net_and_vault(scratch: Database) -> None:
    """Our net.http_post takes and returns what pg_net's does, and the tables have the real ones' columns."""
    install(scratch.connection)
    (found,) = scratch.connection.execute("""
        select pg_get_function_arguments(oid) as arguments, pg_get_function_result(oid) as result
        from pg_proc where oid = 'net.http_post'::regproc""").fetchall()
    assert (found["arguments"], found["result"]) == HTTP_POST
    for table, columns in TABLES.items():
        (row,) = scratch.connection.execute(COLUMNS, [table]).fetchall()
        assert row["columns"] == columns
    with pytest.raises(psycopg.errors.RaiseException, match="must be"):
        scratch.connection.execute(
            """select net.http_post('http://127.0.0.1', headers => '{"Content-Type": "text/plain"}')"""
        )


def test_each_missing_part_is_named(scratch: Database) -> None:
    """Without queue, pg_net, Vault or a secret the files say what is missing and how to get it."""
    assert refusal(scratch, "call.sql") == (
        "The generation queue is not installed.",
        "Run sql/install.sql first.",
    )
    scratch.install()
    for name in ("schedule.sql", "kick.sql"):
        assert refusal(scratch, name)[1], name
    assert "pg_net is not enabled" in refusal(scratch, "call.sql")[0]
    install(scratch.connection)
    scratch.connection.execute("alter schema vault rename to elsewhere")
    assert "supabase_vault is not enabled" in refusal(scratch, "call.sql")[0]
    scratch.connection.execute("alter schema elsewhere rename to vault")
    message, hint = refusal(scratch, "call.sql")
    assert message == "Vault has no secret named generation_worker_url."
    assert hint.endswith("run the statement at the top of sql/schedule/call.sql.")
    store_secret(scratch.connection, "generation_worker_url", URL)
    assert refusal(scratch, "call.sql")[0] == "Vault has no secret named generation_worker_secret."
    store_secret(scratch.connection, "generation_worker_secret", SECRET)
    assert refusal(scratch, "kick.sql") == (
        "The database does not know how to call the worker yet.",
        "Run sql/schedule/call.sql first.",
    )
    paste(scratch.connection, "call.sql")
    assert refusal(scratch, "schedule.sql")[0] == "The extension pg_cron is not enabled."


@pytest.fixture(scope="module")
def with_extensions(postgres: Postgres) -> Iterator[Connection]:
    """An installation with pg_net and Vault."""
    with database(postgres, TODAY) as made:
        install(made.connection)
        yield made.connection


@pytest.fixture
def linked(with_extensions: Connection) -> Connection:
    """The same, before call.sql and any call."""
    paste(with_extensions, "unschedule.sql")
    with_extensions.execute("delete from vault.secrets; truncate net.http_request_queue restart identity")
    return with_extensions


@pytest.mark.parametrize(
    ("url", "called"),
    [
        (URL, f"{URL}/sweep"),
        (f" {URL}/\n", f"{URL}/sweep"),
        ("https://x-123.a.run.app", "https://x-123.a.run.app/sweep"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/sweep"),
        ("http://host.docker.internal:8080/", "http://host.docker.internal:8080/sweep"),
        ("http://worker.example.com", None),
        ("http://127.0.0.1.example.com", None),
        ("worker.example.com", None),
        ("https://worker.example.com/?a=b", None),
        ("https://", None),
        (" ", None),
    ],
)
def test_a_secret_is_sent_only_to_an_https_address(linked: Connection, url: str, called: str | None) -> None:
    """The path is appended to the address, however it was pasted."""
    if called is None:
        with pytest.raises(psycopg.errors.RaiseException, match="begins with https://"):
            prepare(linked, url, made=True)
        return
    prepare(linked, url, made=True)
    linked.execute("select generation.call_worker('/sweep')")
    assert [request["url"] for request in requests(linked)] == [called]


@pytest.mark.parametrize(
    "secret", ["fifteen-letters", "a secret with blanks", "a-secret-with\nX-Other: header", " "]
)
def test_an_invalid_secret_is_refused_and_not_quoted(linked: Connection, secret: str) -> None:
    """One that would become a second header included."""
    with pytest.raises(psycopg.errors.RaiseException, match="at least 16 plain characters") as caught:
        prepare(linked, secret=secret, made=True)
    assert not secret.strip() or secret not in str(caught.value.diag.message_primary) + str(
        caught.value.diag.message_hint
    )


def test_a_secret_may_have_blanks_around_it(installed: Database) -> None:
    """A line break that was pasted with the secret is not sent."""
    prepare(installed.connection, secret=f"{SECRET}\n")
    installed.connection.execute("select generation.call_worker()")
    assert requests(installed.connection)[0]["headers"]["X-Worker-Secret"] == SECRET


def test_twice_is_once_and_unscheduling_leaves_nothing(installed: Database) -> None:
    """The files change nothing the second time, pasted or from psql; unschedule.sql takes all of it back."""
    before = catalog.schema(installed.connection)
    prepare(installed.connection)
    paste(installed.connection, "kick.sql")
    once = catalog.schema(installed.connection)
    for name in ("call.sql", "kick.sql"):
        paste(installed.connection, name)
        assert installed.psql("-f", f"sql/schedule/{name}").returncode == 0
    assert catalog.schema(installed.connection) == once
    assert len(once) > len(before)
    assert installed.psql("-f", "sql/schedule/watch.sql").returncode == 0
    for _ in range(2):
        paste(installed.connection, "unschedule.sql")
        assert catalog.schema(installed.connection) == before
    Queue(installed.connection).enqueue()
    assert requests(installed.connection) == []


def test_installing_again_leaves_the_kick_alone(installed: Database) -> None:
    """A later install.sql keeps the kick."""
    prepare(installed.connection)
    paste(installed.connection, "kick.sql")
    before = catalog.schema(installed.connection)
    installed.install()
    assert catalog.schema(installed.connection) == before
    Queue(installed.connection).enqueue()
    assert len(requests(installed.connection)) == 1


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_nobody_else_may_use_it(installed: Database, role: str) -> None:
    """No role of the API can call the worker, read its secret, or see the calls."""
    prepare(installed.connection)
    paste(installed.connection, "kick.sql")
    allowed = installed.connection.execute(
        """
        select p.proname as name from pg_proc as p
        where p.pronamespace = 'generation'::regnamespace
          and p.proname ~ '^(vault_secret|worker_|call_worker|was_kicked|kick_)'
          and has_function_privilege(%(role)s, p.oid, 'execute')
        union all
        select 'worker_calls'
        where has_table_privilege(%(role)s, 'generation.worker_calls', 'select, insert, update, delete')
        """,
        {"role": role},
    ).fetchall()
    assert allowed == []


def test_storing_the_secrets_again_changes_them(scratch: Database) -> None:
    """The documented statement never fails, so no secret gets into the log; an empty text changes nothing."""
    install(scratch.connection)
    for url, secret in (
        ("https://a.example", "the-first-secret"),
        ("https://b.example", "the-second-one's"),
        ("", ""),
    ):
        text = STORE.replace("https://generation-worker-….run.app", url)
        scratch.connection.execute(
            text.replace("the text of WORKER_SECRET", secret.replace("'", "''")).encode()
        )
    found = scratch.connection.execute(
        "select name, decrypted_secret as text from vault.decrypted_secrets order by name"
    )
    assert [(row["name"], row["text"]) for row in found] == [
        ("generation_worker_secret", "the-second-one's"),
        ("generation_worker_url", "https://b.example"),
    ]


def test_there_is_one_way_to_store_them() -> None:
    """sql/README.md has call.sql's statement, and no page has one that fails when repeated."""
    page = (SQL / "README.md").read_text()
    assert STORE in "\n".join(line.removeprefix("   ") for line in page.splitlines())
    for text in (page, *(path.read_text() for path in (SQL / "schedule").iterdir())):
        assert "select vault.create_secret(" not in text


READ_BY_OTHERS = "select headers from net.http_request_queue"
TAMPERING = (
    READ_BY_OTHERS,
    "update net.http_request_queue set url = 'https://elsewhere.example'",
    "create trigger spy before insert on net.http_request_queue execute function net.wake()",
    "delete from net.http_request_queue returning headers",
)


@pytest.fixture
def stranger(installed: Database) -> Iterator[str]:
    """A role that may log in and nothing else."""
    name = f"stranger_{secrets.token_hex(4)}"
    installed.connection.execute(f"create role {name} login".encode())
    yield name
    installed.connection.execute(f"reset role; drop owned by {name}; drop role {name}".encode())


@pytest.mark.parametrize("statement", TAMPERING)
def test_no_other_role_reads_the_secret_of_a_call_under_way(
    installed: Database, stranger: str, statement: str
) -> None:
    """If we may, pg_net's queue is closed to other roles; they and we can still send."""
    install(installed.connection)
    installed.connection.execute(f"set role {stranger}".encode())
    installed.connection.execute("select net.http_post('https://app.example/hook')")
    installed.connection.execute(READ_BY_OTHERS.encode())
    installed.connection.execute("reset role")
    prepare(installed.connection, made=True)
    (told,) = [
        row["what it says"] for row in paste(installed.connection, "call.sql") if row["where"] == "pg_net"
    ]
    assert "hidden from other roles" in told
    installed.connection.execute("select generation.call_worker()")
    installed.connection.execute(f"set role {stranger}".encode())
    installed.connection.execute("select net.http_post('https://app.example/hook')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        installed.connection.execute(statement.encode())
    installed.connection.execute("reset role")
    assert len(requests(installed.connection)) == 3


def test_where_the_secret_cannot_be_hidden_that_is_said(installed: Database, stranger: str) -> None:
    """On hosted Supabase another role owns pg_net's queue: all works, and a message says who may read it."""
    prepare(installed.connection)
    paste(installed.connection, "unschedule.sql")
    installed.connection.execute(
        f"""
        grant all on net.http_request_queue to public;
        grant usage, create on schema generation to {stranger};
        grant usage on schema vault to {stranger};
        grant select on vault.decrypted_secrets to {stranger};
        set role {stranger}""".encode()
    )
    for _ in range(2):
        told = {row["where"]: row["what it says"] for row in paste(installed.connection, "call.sql")}
        assert told["Vault"] == "address and secret can be used"
        assert "every role may read the secret" in told["pg_net"]
        assert "give no stranger a login" in told["pg_net"]
    installed.connection.execute("select generation.call_worker()")
    installed.connection.execute("reset role")
    assert requests(installed.connection)[0]["headers"]["X-Worker-Secret"] == SECRET
