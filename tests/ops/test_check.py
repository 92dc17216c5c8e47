"""`check`: what it finds on the real stack, what fix it names, and with which exit code it ends."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from tests.support.command_line import ROOT, CommandLine
from tests.support.faults import FaultProxy, refusal
from tests.support.runs import KEY, MODEL, SUCCESSOR, Site
from worker.ops.check import check
from worker.ops.finding import Finding, passed
from worker.settings import Settings
from worker.supabase.queue import SCHEMA_VERSION

NAMES = [
    "settings", "supabase", "database", "bucket", "hosts", "access", "gemini", "callers", "gate", "models",
    "clock",
]  # fmt: skip
PRICES = "gemini-3.1-flash-image costs $0.067 an image, gemini-2.5-flash-image costs $0.039 an image"


@pytest.fixture(autouse=True)
def named_hosts(site: Site) -> None:
    """Photos come from named hosts, as after an installation."""
    site.db.execute("delete from generation.photo_hosts where host = '*'")


async def look(site: Site, **settings: str) -> dict[str, Finding]:
    """The findings by name; each that is not ok has a fix or was skipped."""
    findings = await check(site.worker(**settings))
    for finding in findings:
        assert (finding.fix is None) == (finding.state in ("ok", "skipped")), finding
    assert [f.name for f in findings] == NAMES
    assert passed(findings) == all(finding.state != "failed" for finding in findings)
    return {finding.name: finding for finding in findings}


def states(found: dict[str, Finding]) -> list[str]:
    """The states in their order."""
    return [finding.state for finding in found.values()]


# The last migration as if it had not run.
OLDER = f"update generation.schema_migrations set number = -number where number = {SCHEMA_VERSION}"
BACK = "update generation.schema_migrations set number = -number where number < 0"


@contextmanager
def changed(db: psycopg.Connection[DictRow], change: str, back: str) -> Iterator[None]:
    """The database changed, until the end of the block. Storage's rows refer to each other: no triggers."""
    replica = "set local session_replication_role = replica"
    with db.transaction():
        db.execute(replica)
        db.execute(change.encode())
    try:
        yield
    finally:
        with db.transaction():
            db.execute(replica)
            db.execute(back.encode())


async def test_check_finds_nothing_in_a_complete_installation(cli: CommandLine, site: Site) -> None:
    """`check` names the price of an image, and costs nothing itself."""
    secrets = {"WORKER_SECRET": "a-secret-of-sixteen", "OPERATOR_SECRET": "another-one-of-more"}
    found = await look(site, **secrets)
    assert set(states(found)) == {"ok"}
    assert MODEL in found["gemini"].message and "$0.039" in found["gemini"].message
    done = await cli.call("check", "--json", env=secrets)
    assert done.code == 0
    assert done.json == {"ok": True, "findings": [finding.as_json() for finding in found.values()]}
    shown = await cli.call("check")
    assert shown.code == 0 and shown.out.endswith("The worker can work.\n")
    assert site.gemini.paid() == 0


async def test_check_warns_if_no_credential_lets_anyone_call(site: Site) -> None:
    """The HTTP function then serves nobody; it is a warning, because the command line needs no credential."""
    found = await look(site)
    assert found["callers"].state == "warning"
    assert "WORKER_SECRET" in str(found["callers"].fix)
    oidc = {"OIDC_AUDIENCE": "worker", "OIDC_SERVICE_ACCOUNT": "caller@example.com"}
    only_runs = (await look(site, **oidc))["callers"]
    assert "caller@example.com" in only_runs.message
    assert only_runs.state == "warning" and "OPERATOR_SECRET" in str(only_runs.fix)
    only_looks = (await look(site, OPERATOR_SECRET="another-one-of-more"))["callers"]
    assert only_looks.state == "warning" and "cannot start runs" in only_looks.message


async def test_check_reports_each_invalid_setting_as_its_own_finding(cli: CommandLine) -> None:
    """The exit code is 2."""
    broken = {"SUPABASE_URL": "abc.supabase.co", "GEMINI_API_KEY": None, "MAX_JOBS": "many"}
    done = await cli.call("check", "--json", env=broken)
    assert (done.code, done.json["ok"]) == (2, False)
    messages = [finding["message"] for finding in done.json["findings"]]
    assert [message.split()[0] for message in messages] == ["SUPABASE_URL", "GEMINI_API_KEY", "MAX_JOBS"]
    shown = await cli.call("check", env=broken)
    assert shown.code == 2 and shown.out.count("failed   settings") == 3


@pytest.mark.usefixtures("no_backoff")
async def test_check_skips_what_an_unreachable_supabase_hides(cli: CommandLine, site: Site) -> None:
    """`check` still checks Gemini."""
    found = await look(site, SUPABASE_URL="http://127.0.0.1:9")
    assert states(found)[:7] == ["ok", "failed", *["skipped"] * 4, "ok"]
    assert found["gate"].state == "skipped"
    assert "SUPABASE_URL" in str(found["supabase"].fix)
    done = await cli.call("check", env={"SUPABASE_URL": "http://127.0.0.1:9"})
    assert done.code == 1
    assert "fix: check SUPABASE_URL" in done.out and done.out.endswith("The worker cannot work yet.\n")


@pytest.mark.parametrize("key", ["publishable", "unknown"])
async def test_supabase_refuses_the_key(site: Site, key: str) -> None:
    """The key of anyone, or of another project, is not enough, and the fix names the variable."""
    wrong = site.stack.publishable_key if key == "publishable" else "sb_secret_of-another-project"
    found = await look(site, SUPABASE_SERVICE_ROLE_KEY=wrong)
    assert found["supabase"].state == "failed", found
    assert "SUPABASE_SERVICE_ROLE_KEY" in str(found["supabase"].fix)


async def test_a_database_without_our_schema_is_a_failure_that_names_the_sql(
    site: Site, db: psycopg.Connection[DictRow]
) -> None:
    """A missing schema is not reported as an unreachable database."""
    there, away = "generation_schema_version()", "schema_version_elsewhere()"
    rename = "alter function public.{} rename to {}"
    with changed(db, rename.format(there, away[:-2]), rename.format(away, there[:-2])):
        found = await look(site)
    assert states(found)[1:4] == ["ok", "failed", "ok"]
    assert "sql/install.sql" in str(found["database"].fix)


async def test_a_missing_function_is_named(site: Site, db: psycopg.Connection[DictRow]) -> None:
    """The schema is only partly installed."""
    rename = "alter function public.{} rename to {}"
    there, away = "settle_generation_jobs", "settle_elsewhere"
    with changed(db, rename.format(there, away), rename.format(away, there)):
        found = await look(site)
    assert found["database"].state == "failed"
    assert found["database"].message == "functions are missing: settle_generation_jobs"


async def test_an_older_schema_is_reported_with_both_versions(
    site: Site, db: psycopg.Connection[DictRow]
) -> None:
    """The finding also says that the SQL has to be installed."""
    with changed(db, OLDER, BACK):
        found = await look(site)
    said = f"the database is at {SCHEMA_VERSION - 1}, this worker needs {SCHEMA_VERSION}"
    assert (found["database"].state, found["database"].message) == ("failed", said)
    assert "sql/install.sql" in str(found["database"].fix)


async def test_a_newer_schema_works(site: Site, db: psycopg.Connection[DictRow]) -> None:
    """Its functions serve this worker: both versions are named, and nothing is to do."""
    newer = f"insert into generation.schema_migrations values ({SCHEMA_VERSION + 1}, 'later', '')"
    with changed(db, newer, f"delete from generation.schema_migrations where number > {SCHEMA_VERSION}"):
        found = await look(site)
    assert found["database"].state == "ok"
    said = f"schema version {SCHEMA_VERSION + 1}, newer than {SCHEMA_VERSION}, which this worker needs"
    assert said in found["database"].message


async def test_a_missing_bucket_is_a_failure(site: Site, db: psycopg.Connection[DictRow]) -> None:
    """No photo could be stored."""
    rename = "update storage.buckets set id = '{1}', name = '{1}' where id = '{0}'"
    names = "generated-photos", "elsewhere"
    with changed(db, rename.format(*names), rename.format(*reversed(names))):
        found = await look(site)
    assert states(found)[1:4] == ["ok", "ok", "failed"]
    assert "sql/install.sql" in str(found["bucket"].fix)


async def test_a_public_bucket_is_a_failure_with_a_working_fix(
    site: Site, db: psycopg.Connection[DictRow]
) -> None:
    """The fix is an SQL statement, which the test runs."""
    public = "update storage.buckets set public = true where id = 'generated-photos'"
    fix = public.replace("true", "false")
    with changed(db, public, fix):
        found = await look(site)
        assert found["bucket"].state == "failed" and "public" in found["bucket"].message
        assert str(found["bucket"].fix).endswith(fix)
    assert (await look(site))["bucket"].state == "ok"


async def test_bucket_that_refuses_what_gemini_makes(site: Site, db: psycopg.Connection[DictRow]) -> None:
    """A bucket with another limit or other types fails, with the SQL that repairs it."""
    narrow = "update storage.buckets set {} where id = 'generated-photos'"
    back = narrow.format(
        "allowed_mime_types = array['image/png', 'image/jpeg', 'image/webp'], file_size_limit = 52428800"
    )
    for change, said in (
        ("allowed_mime_types = array['image/png']", "image/jpeg, image/webp"),
        ("file_size_limit = 4000000", "4000000 bytes"),
    ):
        with changed(db, narrow.format(change), back):
            found = (await look(site))["bucket"]
        assert found.state == "failed" and said in found.message
        assert "sql/install.sql" in str(found.fix)


async def test_a_missing_photo_bucket_is_reported_with_both_fixes(site: Site) -> None:
    """Create it, or remove it from the list."""
    site.rows("insert into generation.photo_buckets values ('no-such-bucket') returning bucket")
    found = (await look(site))["bucket"]
    assert found.state == "warning" and "no-such-bucket" in found.message
    assert "dashboard (Storage, New bucket" in str(found.fix)
    assert "generation.photo_buckets" in str(found.fix)


async def test_an_image_that_was_not_kept(site: Site) -> None:
    """After Storage refused an image, check names the problem while runs pay for nothing."""
    facts = '{"bytes": 9, "mimeType": "image/png", "problem": "Storage answered 403"}'
    site.rows("select report_storage(false, %s::jsonb)", facts)
    found = (await look(site))["bucket"]
    assert found.state == "warning" and "Storage answered 403" in found.message
    assert "by itself" in str(found.fix)


async def test_a_probe_that_proved_nothing(site: Site) -> None:
    """If Storage refused an image after a probe, check says how to skip the wait for the next one."""
    report = "select report_storage(%s, %s) -> 'storageRefused' as refused"
    refused = site.rows(report, False, Jsonb({"bytes": 9, "mimeType": "image/png"}))[0]["refused"]
    site.rows(report, True, Jsonb(refused))
    relapsed = site.rows(report, False, Jsonb({"bytes": 9, "mimeType": "image/png"}))[0]["refused"]
    found = (await look(site))["bucket"]
    assert found.state == "warning" and "python -m worker gate resume" in str(found.fix)
    assert relapsed["waitUntil"] in str(found.fix) and "by itself" not in str(found.fix)


async def test_an_answer_that_nobody_knows_is_not_called_a_wrong_key(site: Site) -> None:
    """If a page answers in the place of Storage, check says so; the key may be right."""
    async with FaultProxy(site.stack.url) as proxy:
        page = refusal("400 Bad Request", "<html><title>Maintenance</title></html>")
        proxy.inject(page, "GET /storage/v1/bucket/", times=10)
        found = await look(site, SUPABASE_URL=proxy.url)
    assert found["supabase"].state == "ok"
    assert found["bucket"].state == "failed" and "answered 400" in found["bucket"].message
    assert "SUPABASE_URL" in str(found["bucket"].fix)


async def test_gemini_refuses_the_key(site: Site) -> None:
    """A wrong key fails, and its fix says where keys are made."""
    site.gemini.configure(invalid_keys=[KEY])
    found = await look(site)
    assert found["gemini"].state == "failed"
    assert "GEMINI_API_KEY" in str(found["gemini"].fix)


async def test_an_unreachable_gemini_says_nothing_about_the_key(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finding asks to check again."""
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:9")
    found = await look(site)
    assert found["gemini"].state == "failed" and "again" in str(found["gemini"].fix)


async def test_check_names_the_successor_of_a_retired_default_model(site: Site) -> None:
    """With both prices, and how to decide otherwise."""
    site.gemini.configure(retired=[MODEL])
    found = (await look(site))["gemini"]
    assert found.state == "warning"
    assert f"switches to {SUCCESSOR} by itself" in found.message and PRICES in found.message
    assert f"GEMINI_MODEL_NAME={SUCCESSOR}" in str(found.fix)
    assert "GEMINI_MODEL_FALLBACK=off" in str(found.fix)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"GEMINI_MODEL_FALLBACK": "off"}, "GEMINI_MODEL_FALLBACK is off"),
        ({"GEMINI_MODEL_NAME": MODEL}, "GEMINI_MODEL_NAME names it"),
    ],
)
async def test_retired_model_without_fallback(site: Site, settings: dict[str, str], why: str) -> None:
    """If the worker may not switch, it stops: check names the reason, the successor and both prices."""
    site.gemini.configure(retired=[MODEL])
    found = (await look(site, **settings))["gemini"]
    assert found.state == "failed" and why in found.message
    assert f"GEMINI_MODEL_NAME={SUCCESSOR}" in str(found.fix) and PRICES in str(found.fix)


async def test_an_unknown_model_has_no_successor(site: Site) -> None:
    """An unknown fallback does not help."""
    found = (await look(site, GEMINI_MODEL_NAME="gemini-9-image"))["gemini"]
    assert found.state == "failed" and "gemini-9-image" in found.message
    site.gemini.configure(retired=[MODEL])
    found = (await look(site, GEMINI_MODEL_FALLBACK="gemini-9-image"))["gemini"]
    assert found.state == "failed" and "would switch to gemini-9-image, but" in found.message


def test_settings_are_never_shown() -> None:
    """A secret in the settings does not show in their own representation, which a finding could quote."""
    env = {
        "SUPABASE_URL": "https://a.supabase.co",
        "SUPABASE_SERVICE_ROLE_KEY": "canary-1",
        "GEMINI_API_KEY": "canary-2",
    }
    assert "canary" not in repr(Settings.from_env(env, "w"))


async def test_the_functions_are_those_the_worker_calls(site: Site) -> None:
    """Every function of the database that the worker names is one that the database lists."""
    answer = await site.worker().queue.rpc("generation_schema_version", {})
    assert answer["version"] == SCHEMA_VERSION
    assert answer["functionsMissing"] == []
    called = {text for path in (ROOT / "worker").rglob("*.py") for text in _texts(path)}
    (row,) = site.rows(
        "select array_agg(proname) as names from pg_proc where pronamespace = 'public'::regnamespace"
    )
    assert called & set(row["names"]) <= set(answer["functions"])


def _texts(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


async def test_waits_of_a_wrong_clock_are_named_until_a_run_has_moved_them(site: Site) -> None:
    """After the database's clock was ahead, check says what waits too long; the next run puts it right."""
    (job,) = await site.order("a")
    site.rows(
        """update photo_generation_queue set "waitingSince" = now() + interval '15 hours',
        "retryAt" = now() + interval '15 hours 1 minute' where id = %s returning id""",
        job,
    )
    found = (await look(site))["clock"]
    assert found.state == "warning" and "waiting jobs: 1, until" in found.message
    await site.run()
    assert (await look(site))["clock"].state == "ok"
    assert 0 < site.job(job)["due"] <= 60
