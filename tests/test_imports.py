"""The direction of the arrows: who may import whom, what stays pure, and what an idle run never loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKER = ROOT / "worker"

PURE = {
    "address", "budget", "clock_finding", "database_time", "errors", "finding", "finish",
    "health", "held", "job", "lookup", "mask", "misspelled", "model", "outcome", "photo_hosts",
    "prompt", "quota", "rejection",
    "request", "retry", "room", "rpc_status", "secret",
    "settings", "slots", "storage_answers", "summary", "supabase_errors", "trace", "watch",
    "error_text",
}  # fmt: skip
"""Modules that import no vendor, but for what `PURE_MAY` names."""

PURE_MAY = {"retry": {"backoff"}, "address": {"idna"}}

VENDORS = {
    "backoff": {"retry"},
    "google": {"gemini", "genai_answer", "genai_client", "oidc", "check", "cloud_run", "scale_out"},
    "google.cloud": {"cloud_run"},
    "requests": {"cloud_run"},
    "supabase": {"project"},
    "postgrest": {"project", "queue"},
    "storage3": {"storage"},
    "starlette": {"answer", "auth", "dashboard", "enqueue", "http"},
    "uvicorn": {"connection"},
    "PIL": {"image"},
    "pythonjsonlogger": {"log_json"},
    "colorlog": {"log_line"},
    "prometheus_client": {"metrics"},
    "rich": {"terminal"},
    "dotenv": {"cli", "commands", "__main__"},
}
"""Each vendor is known to these modules and to no others."""

MAY_READ_TIMES = {"auth", "database_time", "log_line", "oidc"}
"""Modules that read times which others wrote: tokens' and certificates', the database's, log records'."""

LAYERS = [
    {"cloud_run", "errors", "finding", "job", "mask", "model", "rpc_status", "secret"},
    {"connection", "log", "log_json", "log_line", "trace"},
    {
        "settings",
        "outcome",
        "retry",
        "room",
        "address",
        "image",
        "error_text",
        "quota",
        "finish",
        "request",
        "prompt",
        "signals",
        "storage_answers",
        "supabase_errors",
    },
    {"photo_hosts"},
    {"status", "outbound", "lookup", "photo_stream"},
    {"held"},
    {"clock_finding", "deployed", "health", "watch"},
    {"tries", "budget", "database_time", "gate", "slots", "summary", "rejection", "project", "download"},
    {"genai_answer", "genai_client", "photo_body", "retirement"},
    {"bucket", "queue", "storage", "storage_proof", "photos", "gemini", "answer", "metrics"},
    {"misspelled", "model_findings", "photo_memory"},
    {"dashboard", "gallery", "keeper", "auth", "enqueue", "folders", "sweep"},
    {"image_task", "http", "oidc"},
    {"pipeline"},
    {"tools"},
    {"settle"},
    {"active"},
    {"runner", "scale_out"},
    {"app", "orders"},
]
"""A module imports only from layers above its own in this list, or from its own; the rest (cli) is below."""


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever it stands; relative to the repository."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "worker":
                found |= {f"worker.{alias.name}" for alias in node.names}
    return found


MODULES = {path.stem: imports(path) for path in WORKER.glob("*.py") if path.stem != "__init__"}


def test_the_worker_knows_nothing_of_tests_and_stack() -> None:
    """Arrows go one way: local and tests import the worker, never the other way round."""
    for module, names in MODULES.items():
        assert not {name.split(".")[0] for name in names} & {"local", "tests", "bench", "main"}, module


def test_pure_modules_import_no_vendor() -> None:
    """Policy, pacing, prompts and outcomes depend on the standard library and each other alone."""
    for module in PURE:
        outside = {name.split(".")[0] for name in MODULES[module]} - set(sys.stdlib_module_names) - {"worker"}
        assert outside <= PURE_MAY.get(module, set()), module


def test_each_vendor_is_known_in_one_place() -> None:
    """Replacing a vendor touches the modules named here."""
    for vendor, allowed in VENDORS.items():
        users = {m for m, names in MODULES.items() if any(f"{n}.".startswith(f"{vendor}.") for n in names)}
        assert users <= allowed, vendor


def test_the_layers_hold() -> None:
    """No module imports one of a later layer."""
    level = {module: number for number, layer in enumerate(LAYERS) for module in layer}
    for module, number in level.items():
        for name in MODULES[module]:
            other = name.removeprefix("worker.")
            if name.startswith("worker.") and other in level:
                assert level[other] <= number, f"{module} imports {other}"


def test_the_wall_clock_and_global_chance_stay_out() -> None:
    """Timestamps are the database's, durations monotonic, chance injected; the one name is app's."""
    for module, names in MODULES.items():
        used = names & {"datetime", "random", "time"}
        assert used <= ({"random", "time"} if module == "app" else set()) or module in MAY_READ_TIMES, module


def test_an_rpc_loads_only_what_it_needs() -> None:
    """A cold start that finds nothing to do pays for Supabase's REST client, and for no other part of it."""
    code = (
        "import sys; from worker.project import Project; from worker.secret import Secret;"
        "Project('http://127.0.0.1:1', Secret('x')).rest;"
        "heavy = ('supabase', 'storage3', 'supabase_auth', 'realtime', 'websockets', 'rich');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_opening_the_application_loads_no_gemini_sdk() -> None:
    """What an idle run needs is loaded without google.genai, Pillow, google.auth and what shows numbers."""
    code = (
        "import sys, worker.app, worker.cli, worker.http, worker.settings;"
        "heavy = ('google.genai', 'PIL', 'google.auth', 'google.cloud.run_v2', 'requests',"
        " 'prometheus_client', 'rich');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
