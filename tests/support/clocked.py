"""A stack whose database can call the worker: the served function, and a simulated pg_net."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import httpx

from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.stack import Stack
from tests.support.installation import connect
from tests.support.pg_net import PgNet, store_secret
from tests.support.queue_sql import Connection
from tests.support.runs import SOURCES, fresh_order, picture, process_environment
from tests.support.schedule_sql import SECRET, paste, prepare

REMOVE = "drop schema if exists net cascade; drop schema if exists vault cascade"


@dataclass(frozen=True, slots=True)
class Clocked:
    """The stack, a superuser's connection to its database, the simulator and the served function."""

    stack: Stack
    db: Connection
    gemini: Simulator
    function: Function

    def order(self, name: str) -> int:
        """Someone new orders one photo, found in the ledger as `[name]`; the job's id."""
        return self.enqueue(self.customer(), name)

    def customer(self) -> str:
        """Someone new, with a photo; their id."""
        user = f"user-{uuid4().hex[:12]}"
        with self._http() as http:
            http.post("/storage/v1/bucket", json={"id": SOURCES, "name": SOURCES, "public": False})
            http.post(
                f"/storage/v1/object/{SOURCES}/{user}/me.png",
                content=picture(),
                headers={"Content-Type": "image/png"},
            ).raise_for_status()
        return user

    def enqueue(self, user: str, name: str) -> int:
        """An order of theirs; the job's id."""
        request = {"userId": user, **fresh_order((name,), 1, f"{SOURCES}/{user}/me.png")}
        with self._http() as http:
            answer = http.post("/rest/v1/rpc/enqueue_generation_batch", json={"p_request": request})
        return int(answer.raise_for_status().json()["jobIds"][0])

    def _http(self) -> httpx.Client:
        headers = {"apikey": self.stack.secret_key, "Authorization": f"Bearer {self.stack.secret_key}"}
        return httpx.Client(base_url=self.stack.url, headers=headers, trust_env=False, timeout=30)

    def is_completed(self, job_id: int) -> bool:
        """Whether a job has been worked off."""
        rows = self.db.execute("select status from photo_generation_queue where id = %s", [job_id])
        return [row["status"] for row in rows] == ["completed"]

    def watch(self, about: str) -> list[str]:
        """The lines of watch.sql about one subject."""
        rows = paste(self.db, "watch.sql")
        return [row["what"].replace("\n", " ") for row in rows if row["about"] == about]

    def calls(self) -> list[str]:
        """The calls that watch.sql shows, the latest first."""
        return self.watch("call")

    def is_quiet(self) -> bool:
        """Whether no call is pending."""
        return not any("under way" in call for call in self.calls())

    def verdict(self, about: str = "clock") -> str:
        """The first line of watch.sql about the clock, the worker or the timeout."""
        return self.watch(about)[0]

    def store(self, name: str, value: str) -> None:
        """Changes a secret in Vault."""
        store_secret(self.db, name, value)


@contextmanager
def clocked(stack: Stack, gemini: Simulator, db: Connection) -> Iterator[Clocked]:
    """Serves process_generation_queue over the stack and runs call.sql; takes it all back at the end."""
    gemini.reset()
    gemini.configure(latency=0.0, scale=0.25)
    environment = process_environment(stack, gemini) | {"WORKER_SECRET": SECRET, "WORKER_ID": "clocked"}
    with Function("process_generation_queue", stack.postgres.folder, environment) as function:
        try:
            prepare(db, function.url)
            with PgNet(stack.db_url):
                yield Clocked(stack, db, gemini, function)
                gemini.release()
        finally:
            with contextlib.closing(connect(stack.db_url)) as cleaner:
                paste(cleaner, "unschedule.sql")
                cleaner.execute(REMOVE)
            gemini.reset()
