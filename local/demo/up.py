"""`make up`: the demo's stack, left running with commands to paste, until Ctrl-C."""

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from shlex import quote

import httpx

from local.demo import simulation
from local.demo.app_site import AppSite, block
from local.demo.customer import Customer, source_photos
from local.demo.environment import kept, open_gate, simulated_gemini, worker_environment
from local.demo.function import Function
from local.demo.orders import PALACE, PORTRAIT, Example, Order
from local.demo.pace import USUAL, Pace
from local.demo.simulation import Simulation
from local.stack.errors import StackError
from local.stack.folder import write_private
from local.stack.stack import DATA, Stack

FOLDER = DATA / "up"
SETTINGS = FOLDER / "worker.env"
PACE = Pace(
    invocation_seconds=60.0, margin_seconds=5.0, call_seconds=20.0, retry_base_seconds=2.0, jobs_a_call=100
)
EMAIL = "demo@example.com"
SOURCES = {"me.jpg": PORTRAIT, "example.jpg": PALACE}
"""The demo user's source photos, under the names that the order in docs/http.md uses."""
ORDER = Order(
    "9:16",
    2,
    "A picture for a story.",
    (Example("stairs", "example.jpg", "On the stairs below the pagoda, late afternoon."),),
    training=("me.jpg",),
)
JSON = "-H 'Content-Type: application/json'"
SELECT = "select=id,status,attempts,errorMessage&order=id.desc&limit=10"


def up() -> int:
    """Starts everything, prints how to use it, and serves until interrupted."""
    photographs = source_photos()
    photos = {name: photographs[photograph] for name, photograph in SOURCES.items()}
    with ExitStack() as running:
        stack = running.enter_context(Stack(FOLDER))
        open_gate(stack, USUAL)
        folder = stack.postgres.folder
        simulator = running.enter_context(Simulation(folder, simulation.settings(PACE, [])))
        secret = folder.remember("worker_secret", lambda: secrets.token_hex(16))
        operator_secret = folder.remember("operator_secret", lambda: secrets.token_hex(16))
        environment = worker_environment(stack, secret, PACE, simulated_gemini(simulator.url))
        environment["OPERATOR_SECRET"] = operator_secret
        orders = running.enter_context(Function("generate_images", folder, environment))
        worker = running.enter_context(Function("process_generation_queue", folder, environment))
        _write_settings(environment)
        login = {
            "email": EMAIL,
            "password": folder.remember("demo_password", lambda: secrets.token_urlsafe(16)),
        }
        user_id, token = sign_in(stack, login)
        asyncio.run(_upload(stack, user_id, token, photos))
        stack.psql(f'drop policy if exists "own training photos" on storage.objects; {block("sql upload")}')
        settings = {
            "supabaseUrl": stack.url,
            "publishableKey": stack.publishable_key,
            "ordersUrl": orders.url,
            **login,
        }
        app = running.enter_context(AppSite(folder.port("app_port"), settings, worker.url, secret))
        guide = Guide(stack, simulator, orders, worker, app, secret, operator_secret, user_id, token, login)
        for line in guide.lines():
            print(line)
        print("\nRunning until Ctrl-C.", flush=True)
        _serve((orders, worker))
    return 0


def sign_in(stack: Stack, login: Mapping[str, str]) -> tuple[str, str]:
    """The demo user's id and a fresh token; signs up at the first start."""
    call, key = stack.supabase.call, stack.publishable_key
    try:
        answer = call("/auth/v1/token?grant_type=password", login, key)
    except StackError:
        answer = call("/auth/v1/signup", login, key)
    return answer["user"]["id"], answer["access_token"]


def _write_settings(environment: Mapping[str, str]) -> None:
    """The functions' settings, for the command line; readable only by the owner."""
    inherited = kept()
    lines = [f"{name}={value}\n" for name, value in environment.items() if name not in inherited]
    write_private(SETTINGS, "".join(lines))


async def _upload(stack: Stack, user_id: str, token: str, photos: Mapping[str, bytes]) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        await Customer(http, stack, user_id, token).upload(photos)


def _serve(functions: Sequence[Function]) -> None:
    """Restarts a function whose process has died, as Cloud Run would; never returns."""
    while True:
        for function in functions:
            if not function.is_running:
                function.kill_workers()
                function.start()
                print(f"{function.target} had died; it runs again, pid {function.pid}", flush=True)
        time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Guide:
    """The printed text: addresses, and commands that work unchanged in a POSIX shell."""

    stack: Stack
    simulator: Simulation
    orders: Function
    worker: Function
    app: AppSite
    secret: str
    operator_secret: str
    user_id: str
    token: str
    login: Mapping[str, str]

    def lines(self) -> Iterator[str]:
        """The whole guide."""
        yield f"Supabase                  {self.stack.url}"
        yield f"  publishable key         {self.stack.publishable_key}"
        yield f"  secret key              {self.stack.secret_key}"
        yield f"Gemini simulator          {self.simulator.url}  (pid {self.simulator.pid})"
        yield f"generate_images           {self.orders.url}  (pid {self.orders.pid})"
        yield f"process_generation_queue  {self.worker.url}  (pid {self.worker.pid})"
        yield f"an app in the browser     {self.app.url}"
        yield f"the operator's dashboard  {self.worker.url}/dashboard  (asks for OPERATOR_SECRET, below)"
        yield f"logs                      {FOLDER}/*.log"
        yield f"\nACCESS_TOKEN={quote(self.token)}"
        yield f"USER_ID={quote(self.user_id)}"
        yield f"SUPABASE_URL={quote(self.stack.url)}"
        yield f"SUPABASE_ANON_KEY={quote(self.stack.publishable_key)}"
        yield f"DATABASE_URL={quote(self.stack.db_url)}"
        yield f"ORDERS_URL={quote(self.orders.url)}"
        yield f"WORKER_URL={quote(self.worker.url)}"
        yield f"WORKER_SECRET={quote(self.secret)}"
        yield f"OPERATOR_SECRET={quote(self.operator_secret)}"
        for words, command in self.commands():
            yield f"\n# {words}\n{command}"

    def commands(self) -> Iterator[tuple[str, str]]:
        """The purpose of each command, and the command."""
        worker, supabase = self.worker.url, self.stack.url
        bearer, secret = '-H "Authorization: Bearer $ACCESS_TOKEN"', '-H "X-Worker-Secret: $WORKER_SECRET"'
        key = f"-H 'apikey: {self.stack.publishable_key}'"
        order = quote(json.dumps(ORDER.body(f"training-photos/{self.user_id}")))
        yield (
            "Order photos, as the app does for the signed-in user:",
            f"curl -s {self.orders.url} {bearer} {JSON} -d {order}",
        )
        yield (
            "List the next jobs, without claiming them:",
            f"curl -s {worker} {secret} {JSON} -d '{{\"dryRun\": true}}'",
        )
        yield "Process the queue, as Cloud Scheduler does:", f"curl -s -X POST {worker} {secret}"
        yield "Check whether the worker answers:", f"curl -s {worker}/healthz"
        yield (
            "Read the queue as the customer, who sees only their own rows:",
            f"curl -s '{supabase}/rest/v1/photo_generation_queue?{SELECT}' {key} {bearer}",
        )
        yield "Show which requests the Gemini simulator got:", f"curl -s {self.simulator.url}/_sim/ledger"
        yield (
            "Get a new token after an hour:",
            f"curl -s '{supabase}/auth/v1/token?grant_type=password' {key} {JSON} "
            f"-d {quote(json.dumps(dict(self.login)))}",
        )
        command_line = [sys.executable, "-m", "worker", "--env-file", os.path.relpath(SETTINGS)]
        yield (
            "Use the command line (check, tick, gate show, …):",
            f"{' '.join(map(quote, command_line))} status",
        )
        yield (
            "Open the database:",
            f"{quote(str(self.stack.postgres.bin / 'psql'))} {quote(self.stack.db_url)}",
        )
