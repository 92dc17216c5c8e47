"""The direction of the arrows: which package may import which, and what an idle run never loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "worker"

VALUES = {"errors", "jobs", "common", "log"}
"""What everything may import: these know each other alone."""

ARROWS = {
    "photos": VALUES,
    "gemini": VALUES | {"photos"},
    "supabase": VALUES | {"photos"},
    "settings": VALUES | {"gemini"},
    "run": VALUES | {"settings", "supabase", "gemini", "photos"},
    "ops": VALUES | {"settings", "supabase", "gemini", "run"},
    "http": VALUES | {"settings", "supabase", "run", "ops"},
    "app": VALUES | {"settings", "supabase", "gemini", "photos", "run", "ops"},
    "cli": VALUES | {"settings", "supabase", "gemini", "run", "ops", "http", "app"},
    "__main__": {"cli"},
}
"""Package, or module beside the packages, and what it may import. None of these arrows goes round."""

VENDORS = {
    "PIL": {"photos.decode", "photos.image_info"},
    "pi_heif": {"photos.decode"},
    "backoff": {"supabase.retry"},
    "certifi": {"photos.download"},
    "colorlog": {"log.terminal_lines"},
    "dotenv": {"cli.main"},
    "google.api_core": {"ops.cloud_run"},
    "google.auth": {"http.oidc", "ops.check", "ops.cloud_run", "ops.scale_out"},
    "google.cloud": {"ops.cloud_run"},
    "google.genai": {"gemini.answer", "gemini.client", "gemini.sdk"},
    "google.oauth2": {"http.oidc"},
    "httpcore": {"photos.connection", "photos.download"},
    "httpx": {
        "common.http_client", "gemini.request_body", "gemini.sdk", "supabase.bucket",
        "supabase.client", "supabase.queue", "supabase.storage",
    },
    "idna": {"photos.address"},
    "postgrest": {"supabase.client", "supabase.queue"},
    "prometheus_client": {"ops.metrics"},
    "pydantic": {"supabase.queue", "supabase.storage"},
    "pythonjsonlogger": {"log.json_lines"},
    "requests": {"ops.cloud_run"},
    "rich": {"cli.terminal"},
    "starlette": {"http.auth", "http.dashboard.page", "http.orders", "http.process", "http.response"},
    "storage3": {"supabase.client", "supabase.storage"},
    "supabase": {"supabase.client"},
    "uvicorn": {"http.connection"},
}  # fmt: skip
"""Each vendor is known to these modules; every other module is pure: the standard library and our own."""

TWO_PACKAGES = {"google.auth", "httpx"}
"""Vendors that more than one package knows: one package checks Google's tokens and one gets them; httpx makes
every call except those to photo hosts. Any other vendor is known to one package."""

MAY_READ_TIMES = {"http.auth", "http.oidc", "log.terminal_lines", "supabase.database_time"}
"""Modules that read times which others wrote: tokens' and certificates', the database's, log records'."""


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            ours = node.module.split(".")[0] == "worker"
            modules = {name for name in names if name.removeprefix("worker.") in NAMES} if ours else set()
            found |= modules or ({node.module} if node.module != "google" else names)
    return found


def name_of(path: Path) -> str:
    """`run.image` for worker/run/image.py, `log` for its package's own file."""
    parts = path.relative_to(WORKER).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in WORKER.rglob("*.py") if path != WORKER / "__init__.py"}
MODULES = {name: imports(path) for name, path in NAMES.items()}
OURS = {
    module: {name.removeprefix("worker.") for name in names if name.startswith("worker.")}
    for module, names in MODULES.items()
}


def package(module: str) -> str:
    """The package that a module is in, or its own name."""
    return module.split(".")[0]


def test_each_package_imports_only_what_it_may() -> None:
    """Every arrow between packages is in the table, and every package is."""
    assert {package(module) for module in MODULES} == VALUES | ARROWS.keys()
    for module, names in OURS.items():
        outside = {package(name) for name in names} - {package(module)}
        assert outside <= ARROWS.get(package(module), VALUES), module


def test_no_packages_or_modules_import_each_other_in_a_circle() -> None:
    """Neither packages nor modules import each other in a circle."""
    tuple(TopologicalSorter(ARROWS).static_order())
    graph = {module: names - {package(module)} for module, names in OURS.items()}
    tuple(TopologicalSorter(graph).static_order())


def test_the_worker_knows_nothing_of_tests_and_stack() -> None:
    """Arrows go one way: local and tests import the worker, never the other way round."""
    for module, names in MODULES.items():
        assert not {name.split(".")[0] for name in names} & {"local", "tests", "bench", "main"}, module


def test_each_vendor_is_known_in_one_place() -> None:
    """Replacing a vendor touches the modules named here; a vendor that is not named is not there."""
    known: dict[str, set[str]] = {}
    for module, names in MODULES.items():
        for name in names:
            if name.split(".")[0] not in {*sys.stdlib_module_names, "worker"}:
                vendor = ".".join(name.split(".")[: 2 if name.startswith("google.") else 1])
                known.setdefault(vendor, set()).add(module)
    assert known == VENDORS
    assert {vendor for vendor, modules in known.items() if len({*map(package, modules)}) > 1} == TWO_PACKAGES


def test_the_wall_clock_and_global_chance_stay_out() -> None:
    """Timestamps are the database's, durations monotonic, chance injected; the one name is app's."""
    for module, names in MODULES.items():
        used = names & {"datetime", "random", "time"}
        assert used <= ({"random", "time"} if module == "app" else set()) or module in MAY_READ_TIMES, module


def loaded(code: str, *heavy: str) -> str:
    """Which of these modules are loaded after the code has run."""
    code = f"import sys; {code}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_rpc_loads_only_what_it_needs() -> None:
    """A cold start that finds nothing to do pays for Supabase's REST client, and for no other part of it."""
    code = (
        "from worker.supabase.client import Project; from worker.log.secret import Secret;"
        "Project('http://127.0.0.1:1', Secret('x')).rest"
    )
    heavy = ("supabase", "storage3", "supabase_auth", "realtime", "websockets", "rich")
    assert loaded(code, *heavy) == "[]"


def test_opening_the_application_loads_no_gemini_sdk() -> None:
    """An idle run does not load google.genai, Pillow, google.auth, or the modules that show numbers."""
    code = "import worker.app, worker.cli.main, worker.http.process, worker.settings"
    heavy = ("google.genai", "PIL", "google.auth", "google.cloud.run_v2", "requests", "prometheus_client")
    assert loaded(code, *heavy, "rich") == "[]"
