"""The commands of docs/http.md, pasted into one shell, run both functions, each on its port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from local.demo.environment import kept
from local.stack.folder import Folder

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```\n((?:export .*\n)*functions-framework (?:.*\n)*?)```$", re.MULTILINE)
SETTINGS = {
    "SUPABASE_URL": "http://127.0.0.1:9",
    "SUPABASE_SERVICE_ROLE_KEY": "a-key",
    "SUPABASE_ANON_KEY": "another-key",
    "GEMINI_API_KEY": "a-third-key",
}


def wait_for(url: str, process: subprocess.Popen[bytes]) -> httpx.Response:
    """The first answer to a request without a credential."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return httpx.post(url, timeout=10, trust_env=False)
        except httpx.TransportError:
            assert process.poll() is None and time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.1)


def test_both_functions_run_side_by_side(tmp_path: Path) -> None:
    """One paste starts both, and each answers as itself while the other runs."""
    (block,) = BLOCK.findall((ROOT / "docs" / "http.md").read_text())
    folder = Folder(tmp_path)
    ports = {name: str(folder.port(name)) for name in re.findall(r"--port (\d+)", block)}
    assert len(ports) == 2
    for name, port in ports.items():
        block = block.replace(f"--port {name}", f"--port {port} --host 127.0.0.1")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**kept(), **SETTINGS, "PATH": path, "HOME": str(tmp_path)}
    process = subprocess.Popen(["bash", "-c", block], cwd=ROOT, env=environment, start_new_session=True)
    try:
        queue, orders = (wait_for(f"http://127.0.0.1:{port}/", process) for port in ports.values())
        assert "Supabase did not answer" in queue.text or queue.status_code == 503, queue.text
        assert (orders.status_code, orders.json()["error"]["code"]) == (401, "not_signed_in")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
