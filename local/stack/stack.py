"""The whole local Supabase: PostgreSQL 18, the API server, and this project's SQL in it."""

import hashlib
import secrets
from pathlib import Path

from local.install_sql import install_sql
from local.stack.errors import StackError
from local.stack.postgres import Postgres
from local.stack.processes import Startable
from local.stack.supabase import Supabase

CLONE = Path(__file__).resolve().parent.parent.parent
SQL = CLONE / "sql"
ACCESS = SQL / "functions" / "80_access.sql"  # who may do what; applied at every start
DATA = CLONE / ".local"  # where the stacks of this clone keep their folders; `make clean` removes it


def project_sql() -> str:
    """The SQL of an installation, built from its current parts."""
    return install_sql()


class Stack(Startable):
    """A Supabase on loopback with this project's SQL applied; a context manager.

    The data stays in `folder`, also when the process using it is killed; one stack at a time may use it.
    It ends with the thread that started it. `durable=False` gives up surviving a crash of the machine;
    another PostgreSQL than the usual 18 may be given instead of it.
    """

    def __init__(self, folder: Path, durable: bool = True, postgres: Postgres | None = None) -> None:
        self.postgres = postgres or Postgres(folder, durable=durable)
        self.supabase = Supabase(self.postgres)

    @property
    def url(self) -> str:
        """The value of SUPABASE_URL for it."""
        return self.supabase.url

    @property
    def db_url(self) -> str:
        """The URL for database clients, as the superuser `postgres`."""
        return self.postgres.db_url

    @property
    def secret_key(self) -> str:
        """The service role's API key."""
        return self.supabase.secret_key

    @property
    def publishable_key(self) -> str:
        """The API key of anyone."""
        return self.supabase.publishable_key

    @property
    def jwt_secret(self) -> str:
        """The key that signs users' tokens (HS256)."""
        return self.supabase.jwt_secret

    @property
    def pids(self) -> tuple[int, int]:
        """The process ids of PostgreSQL and of the API server."""
        return self.postgres.pid, self.supabase.pid

    def start(self) -> None:
        """Starts everything, applies the project's SQL if it has changed; `StackError` says why it cannot."""
        self.postgres.start()
        try:
            if self._has_auth():
                self._apply_changed_sql()
            self.supabase.start()
            if self._apply_changed_sql():
                self.supabase.restart()
            else:
                self.postgres.apply([ACCESS])
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops everything; nothing happens if it is not running."""
        try:
            self.supabase.stop()
        finally:
            self.postgres.stop()

    def psql(self, sql: str) -> str:
        """The output of psql for the statements, unaligned; `StackError` with the database's own words."""
        return self.postgres.psql(sql)

    def apply_sql(self) -> None:
        """Applies the project's SQL again and makes the API server reload the schema."""
        self._apply()
        self.supabase.restart()

    def sign_up(self, email: str | None = None) -> tuple[str, str]:
        """A new user's id and access token."""
        body = {
            "email": email or f"{secrets.token_hex(8)}@example.com",
            "password": secrets.token_urlsafe(16),
        }
        answer = self.supabase.call("/auth/v1/signup", body, self.publishable_key)
        return answer["user"]["id"], answer["access_token"]

    def _has_auth(self) -> bool:
        """Whether the API server has started before and created the schemas that our SQL needs."""
        return self.psql("select to_regclass('storage.objects') is not null") == "t"

    def _apply_changed_sql(self) -> bool:
        """Applies the project's SQL unless the database remembers this very text; whether it did."""
        if self.psql(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = 'postgres'"
        ) == _digest(project_sql()):
            return False
        self._apply()
        return True

    def _apply(self) -> None:
        text = project_sql()
        try:
            self.postgres.run(text)
        except StackError as error:
            fix = "Fix the SQL. If the data was made by older SQL, `make clean` starts afresh."
            raise StackError("The project's SQL could not be applied:", fix, error.log) from error
        self.psql(f"comment on database postgres is '{_digest(text)}'")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
