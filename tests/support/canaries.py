"""Secrets that are easy to recognise, and every place they could turn up in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import DictRow

from tests.support.command_line import ROOT
from tests.support.proxy import Proxy
from tests.support.runs import Site, picture, process_environment
from tests.support.wire import Asked, Script, reply

# Everything that libraries can be made to tell: levels set before the worker sets its own root logger up.
TALKATIVE = """
import logging
for name in ("asyncio", "google", "google_genai", "h11", "hpack", "httpcore", "httpx", "httpx2", "postgrest",
             "requests", "storage3", "supabase", "urllib3"):
    logging.getLogger(name).setLevel(logging.DEBUG)
"""

GEMINI_KEY = "AIzaCanary-of-Gemini_0123456789abcdefghi"
WORKER_SECRET = "canary-of-the-worker-0123456789"
OPERATOR_SECRET = "canary-of-the-operator-0123456789"
OIDC_TOKEN = (
    "eyJhbGciOiJSUzI1NiIsImtpZCI6ImNhbmFyeSIsInR5cCI6IkpXVCJ9."
    "eyJhdWQiOiJ3b3JrZXIiLCJlbWFpbCI6ImNhbGxlckBleGFtcGxlLmNvbSJ9.Y2FuYXJ5LW9mLW9pZGM"
)


@dataclass(frozen=True, slots=True)
class Canaries:
    """The secrets by name. A token's signature counts separately: without it the token is worthless."""

    values: dict[str, str]

    def assert_absent(self, place: str, text: str) -> None:
        """None of the secrets is in a text."""
        for name, secret in self.values.items():
            assert secret not in text, (
                f"{name} is in {place}: …{text[max(0, text.index(secret) - 200) :][:300]}"
            )
            signature = secret.rpartition(".")[2]
            assert signature not in text, f"the signature of {name} is in {place}"


@dataclass(slots=True)
class Watched:
    """A site whose worker's traffic goes through proxies that note each path and query."""

    site: Site
    api: Proxy
    gemini: Proxy
    canaries: Canaries
    environment: dict[str, str]
    token: str

    def assert_traffic_is_clean(self) -> None:
        """No path or query to Supabase or Gemini carries a secret, and there was traffic to look at."""
        assert self.api.paths
        for path in (*self.api.paths, *self.gemini.paths):
            self.canaries.assert_absent("a URL", path)

    def assert_database_is_clean(self) -> None:
        """No column of any table of ours carries a secret, and there were rows to look at."""
        text = dumped(self.site.db)
        assert self.site.user in text
        self.canaries.assert_absent("the database", text)


def dumped(db: psycopg.Connection[DictRow]) -> str:
    """All rows of all tables in the schemas `public` and `generation`, as JSON."""
    everything = []
    tables = "select schemaname as schema, tablename as name from pg_tables where schemaname = any(%s)"
    for table in db.execute(tables, [["public", "generation"]]).fetchall():
        query = sql.SQL("select to_jsonb(t)::text as row from {} as t").format(
            sql.Identifier(table["schema"], table["name"])
        )
        everything += [row["row"] for row in db.execute(query).fetchall()]
    return "\n".join(everything)


def quoting(status: str, shape: str = "page") -> Script:
    """A server's answer that quotes the request with all its headers, as a debugging gateway's page does."""

    def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        # The secrets first: Python cuts what it quotes in a message off after 200 characters.
        keys = sorted(asked.headers.items(), key=lambda header: header[0] not in KEY_HEADERS)
        quoted = "\n".join([*(f"{name}: {value}" for name, value in keys), asked.line])
        if shape == "page":
            reply(status, f"<html><pre>{quoted}</pre></html>".encode(), Content_Type="text/html")(
                asked, writer
            )
        else:
            body = json.loads(SHAPES[shape].replace('"?"', json.dumps(quoted)))
            reply(status, body, Content_Type="application/json")(asked, writer)

    return answer


KEY_HEADERS = ("apikey", "x-goog-api-key")
SHAPES = {
    "google": '{"error": {"code": 400, "message": "?", "status": "?", "details": [{"reason": "?", "metadata":'
    ' {"consumer": "?"}, "@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "?"}]}}',
    "gateway": '{"message": "?", "msg": "?", "error": "?", "error_description": "?", "hint": "?"}',
    "object": '{"fence": "?", "jobs": [{"id": "?"}], "reason": "?", "version": "?", "functions": ["?"]}',
    "list": '["?"]',
    "text": '"?"',
}


@pytest.fixture
async def watched(site: Site, tmp_path: Path) -> AsyncIterator[Watched]:
    """A signed-in user's site, with canaries for all secrets, and libraries that log everything."""
    (tmp_path / "sitecustomize.py").write_text(TALKATIVE)
    site.user, token = site.stack.sign_up()
    site.photo = await site.upload("me.png", picture())
    secrets = {
        "the service key": site.stack.secret_key,
        "the publishable key": site.stack.publishable_key,
        "the key of Gemini": GEMINI_KEY,
        "the worker's secret": WORKER_SECRET,
        "the operator's secret": OPERATOR_SECRET,
        "the access token": token,
        "the OIDC token": OIDC_TOKEN,
    }
    async with Proxy(site.stack.url) as api, Proxy(site.gemini.url) as gemini:
        environment = process_environment(site.stack, site.gemini) | {
            "SUPABASE_URL": api.url,
            "GOOGLE_GEMINI_BASE_URL": gemini.url,
            "GEMINI_API_KEY": GEMINI_KEY,
            "WORKER_SECRET": WORKER_SECRET,
            "OPERATOR_SECRET": OPERATOR_SECRET,
            "OIDC_AUDIENCE": "worker",
            "OIDC_SERVICE_ACCOUNT": "caller@example.com",
            "HTTPS_PROXY": "http://127.0.0.1:9",  # nobody: Google's certificates are not fetched from a test
            "LOG_LEVEL": "DEBUG",
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
        }
        yield Watched(site, api, gemini, Canaries(secrets), environment, token)
