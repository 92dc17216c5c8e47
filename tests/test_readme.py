"""The README is true: its settings are the code's, and its curl examples answer what it shows.

`python -m tests.test_readme` runs the examples and writes their output into the README.
"""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from local.simulator.gemini import Simulator
from local.stack.stack import Stack

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
SECRET = "a-secret-for-the-readme"

CONSOLE = re.compile(r"```console\n(\$ .*?)\n```", re.DOTALL)
MASKS = [
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r'("(?:durationSeconds|nextAttemptInSeconds)": ?)[\d.]+'), r"\1<seconds>"),
    (re.compile(r'("nextAttemptAt": ?)"[^"]+"'), r"\1<time>"),
    (re.compile(r'("(?:id|jobIds)": ?\[?)\d+'), r"\1<id>"),
]


def masked(text: str) -> str:
    """The text with ids and times made equal."""
    for pattern, mask in MASKS:
        text = pattern.sub(mask, text)
    return text


def split(block: str) -> tuple[str, str]:
    """The command of a console block and the output shown below it."""
    lines = block.removeprefix("$ ").split("\n")
    quotes = 0
    for last, line in enumerate(lines, start=1):
        quotes += line.count("'")
        if quotes % 2 == 0:
            return "\n".join(lines[:last]), "\n".join(lines[last:])
    raise ValueError(f"a quote is not closed: {block}")


@contextmanager
def serving(target: str, env: dict[str, str]) -> Iterator[str]:
    """One of the functions as functions-framework serves it; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = str(Path(sys.executable).parent / "functions-framework")
    command = [program, "--target", target, "--port", str(port)]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    httpx.options(f"http://127.0.0.1:{port}/", timeout=5)
                    break
                except httpx.TransportError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        output.seek(0)
                        pytest.fail(f"{target} did not start: {output.read().decode()[-2000:]}")
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


@contextmanager
def example_environment(stack: Stack, simulator: Simulator) -> Iterator[dict[str, str]]:
    """What the README's commands need: both functions, a user with a token and two photos."""
    user_id, token = stack.sign_up()
    _upload_photos(stack, user_id)
    base = {"PATH": os.environ["PATH"], "HOME": tempfile.gettempdir()}
    env = {
        **base,
        "SUPABASE_URL": stack.url,
        "SUPABASE_SERVICE_ROLE_KEY": stack.secret_key,
        "SUPABASE_ANON_KEY": stack.publishable_key,
        "GEMINI_API_KEY": "a-key-for-the-simulator",
        "GOOGLE_GEMINI_BASE_URL": simulator.url,
        "WORKER_SECRET": SECRET,
        "WORKER_ID": "worker-1",
    }
    with ExitStack() as both:
        yield {
            **base,
            "WORKER_URL": both.enter_context(serving("process_generation_queue", env)),
            "ORDERS_URL": both.enter_context(serving("generate_images", env)),
            "WORKER_SECRET": SECRET,
            "ACCESS_TOKEN": token,
            "USER_ID": user_id,
        }


def _upload_photos(stack: Stack, user_id: str) -> None:
    photo = io.BytesIO()
    Image.new("RGB", (320, 240), "teal").save(photo, "JPEG")
    headers = {"apikey": stack.secret_key, "Authorization": f"Bearer {stack.secret_key}"}
    with httpx.Client(base_url=f"{stack.url}/storage/v1", headers=headers) as storage:
        storage.post("/bucket", json={"id": "training-photos", "name": "training-photos", "public": False})
        for name in ("example.jpg", "me.jpg"):
            storage.post(
                f"/object/training-photos/{user_id}/{name}",
                content=photo.getvalue(),
                headers={"Content-Type": "image/jpeg"},
            ).raise_for_status()


def run(command: str, env: dict[str, str]) -> str:
    """What the command prints; curl must have got an answer."""
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.system
@pytest.mark.usefixtures("db")
def test_curl_examples(stack: Stack, program: Callable[[str, str], str]) -> None:
    """Every curl example of the README, in its order, answers what it shows (ids and times masked)."""
    program("curl", "curl")
    blocks = [split(block) for block in CONSOLE.findall(README.read_text())]
    assert len(blocks) >= 8
    with Simulator(scale=0.25) as simulator, example_environment(stack, simulator) as env:
        for command, shown in blocks:
            assert masked(run(command, env)) == masked(shown), command


def test_settings_table() -> None:
    """The README's table names each variable that the settings read, and no other."""
    source = (ROOT / "worker" / "settings.py").read_text() + (ROOT / "worker" / "log.py").read_text()
    read = set(re.findall(r'"([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)"', source)) - {"K_SERVICE", "CLOUD_RUN_JOB"}
    told = set(re.findall(r"^\| `([A-Z_]+)` \|", README.read_text(), re.MULTILINE))
    assert told == read


def test_settings_defaults() -> None:
    """The defaults in the table are the code's."""
    source = (ROOT / "worker" / "settings.py").read_text()
    in_code = dict(re.findall(r'read\.(?:number|whole)\(\s*"([A-Z_]+)", ([\d.]+)', source))
    in_table = dict(re.findall(r"^\| `([A-Z_]+)` \| `([\d.]+)` \|", README.read_text(), re.MULTILINE))
    assert in_code.keys() <= in_table.keys()
    for name, default in in_code.items():
        assert float(in_table[name]) == float(default), name


def write() -> None:
    """Run the examples and write what they print into the README."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(Path(folder), durable=False) as stack,
        Simulator(scale=0.25) as simulator,
        example_environment(stack, simulator) as env,
    ):

        def rendered(match: re.Match[str]) -> str:
            command, _ = split(match[1])
            return f"```console\n$ {command}\n{run(command, env)}\n```"

        README.write_text(CONSOLE.sub(rendered, README.read_text()))


if __name__ == "__main__":
    write()
