"""`make up`: the demo's stack left running, with the commands to type, until Ctrl-C."""

import asyncio
import json
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx

from local import simulation
from local.customer import Customer, source_photos
from local.environment import simulated_gemini, worker_environment
from local.errors import StackError
from local.function import ROOT, Function
from local.orders import DEMO, STAIRS, Order
from local.pace import Pace
from local.simulation import Simulation
from local.stack import Stack

DATA = ROOT / ".local" / "up"
PACE = Pace(invocation_seconds=60.0, margin_seconds=5.0, call_seconds=20.0, retry_base_seconds=2.0)
EMAIL = "demo@example.com"
ORDER = Order("9:16", 2, DEMO[1].base_prompt, (STAIRS,))
COMMANDS = """
TOKEN='{token}'
SECRET='{secret}'

# Order, as the app does for the person signed in:
curl -s {orders} -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{order}'

# Look what a run would claim:
curl -s {worker} -H "X-Worker-Secret: $SECRET" -H 'Content-Type: application/json' -d '{{"dryRun": true}}'

# Work the queue off, as Cloud Scheduler does every minute:
curl -s -X POST {worker} -H "X-Worker-Secret: $SECRET"

# Is it alive?
curl -s {worker}/healthz

# The queue, as the person signed in sees it:
curl -s '{supabase}/rest/v1/photo_generation_queue?select=id,status,attempts,errorMessage&order=id.desc&limit=10' -H 'apikey: {publishable}' -H "Authorization: Bearer $TOKEN"

# Every call that the simulator has answered:
curl -s {simulator}/_sim/ledger

# Another token, when this one has run out after an hour:
curl -s '{supabase}/auth/v1/token?grant_type=password' -H 'apikey: {publishable}' -H 'Content-Type: application/json' -d '{login}'

# The database:
{psql} '{db_url}'
"""


def up() -> int:
    """Starts everything, prints how to use it, and returns when interrupted."""
    photos = source_photos()
    with ExitStack() as running:
        stack = running.enter_context(Stack(DATA))
        folder = stack.postgres.folder
        simulator = running.enter_context(Simulation(folder, simulation.settings(PACE, [])))
        secret = folder.remember("worker_secret", lambda: secrets.token_hex(16))
        environment = worker_environment(stack, secret, PACE, simulated_gemini(simulator.url))
        functions = [
            running.enter_context(
                Function(target, folder, environment, port=folder.port(f"{target}_port"))
            )
            for target in ("generate_images", "process_generation_queue")
        ]
        password = folder.remember("demo_password", lambda: secrets.token_urlsafe(16))
        user_id, token = _signed_in(stack, password)
        asyncio.run(_upload(stack, user_id, token, photos))
        print(_addresses(stack, simulator, functions))
        print(_commands(stack, simulator, functions, secret, user_id, token, password))
        print("Running until Ctrl-C.", flush=True)
        _watch(functions)
    return 0
