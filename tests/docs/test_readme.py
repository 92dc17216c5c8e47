"""The README and its pages are true: settings are the code's, curl examples answer what is shown.

`python -m tests.docs.test_readme` runs the examples of docs/http.md and writes their output into it.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import get_args

import httpx
import pytest
from PIL import Image

from local.simulator.gemini import Simulator
from local.stack.stack import Stack
from tests.docs.test_promised_names import commands
from tests.local.test_stack import wait_until_gone
from tests.local.test_up import read_guide
from tests.support.clone import cloned, descendants
from worker.cli.arguments import parser
from worker.gemini.prompt import build_prompt
from worker.jobs import Job, Style
from worker.run.stop import StopReason
from worker.run.summary import IMAGE_COUNTS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
HTTP = ROOT / "docs" / "http.md"
SETTINGS = ROOT / "docs" / "settings.md"
SECRET = "a-secret-for-the-readme"

CONSOLE = re.compile(r"```console\n(\$ .*?)\n```", re.DOTALL)
MASKS = [
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r'("(?:durationSeconds|nextAttemptInSeconds)": ?)[\d.]+'), r"\1<seconds>"),
    (re.compile(r'("nextAttemptAt": ?)"[^"]+"'), r"\1<time>"),
    (re.compile(r'("(?:id|jobIds)": ?\[?)\d+'), r"\1<id>"),
    (re.compile(r'("workerId": ?)"[^"]+"'), r"\1<worker>"),
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
        if quotes % 2 == 0 and not line.endswith(("\\", "&&")):
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
            deadline = time.monotonic() + 60
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
            process.wait(60)


@contextmanager
def example_environment(stack: Stack, simulator: Simulator) -> Iterator[dict[str, str]]:
    """What the page's commands need: both functions, a user with a token, and two photos."""
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
            "SUPABASE_URL": stack.url,
            "SUPABASE_ANON_KEY": stack.publishable_key,
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


def run(command: str, env: Mapping[str, str], folder: Path) -> str:
    """The output of the command in the folder; curl must have got an answer."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run_all(env: Mapping[str, str], folder: Path) -> None:
    """Every curl example of docs/http.md, in its order, answers what it shows, and a photo comes out."""
    examples = [split(block) for block in CONSOLE.findall(HTTP.read_text())]
    assert len(examples) >= 9
    for command, shown in examples:
        assert masked(run(command, env, folder)) == masked(shown), command
    with Image.open(folder / "photo.png") as photo:
        photo.load()
        assert photo.width * 1344 == photo.height * 768


@pytest.mark.system
@pytest.mark.usefixtures("db")
def test_every_curl_example_of_the_http_page_works(
    stack: Stack, program: Callable[[str, str], str], tmp_path: Path
) -> None:
    """Ids and times are masked, and the last photo can be fetched."""
    program("curl", "curl")
    with Simulator(scale=0.25) as simulator, example_environment(stack, simulator) as env:
        run_all(env, tmp_path)


@pytest.mark.system
def test_curl_examples_on_make_up(program: Callable[[str, str], str], tmp_path: Path) -> None:
    """With the variables that `make up` prints, every curl example of docs/http.md works."""
    program("curl", "curl")
    with cloned(tmp_path) as clone, clone.running("up") as process:
        variables, _ = read_guide(process)
        started = descendants(process.pid)
        run_all({"PATH": os.environ["PATH"], **variables}, tmp_path)
        process.terminate()
        process.communicate(timeout=90)
    wait_until_gone(started)


def test_the_head_says_what_an_order_is() -> None:
    """Before any command the README names all parts of an order, and quotes the text that is added to it."""
    head = " ".join(README.read_text().partition("## Two commands")[0].split())
    job = Job(
        id=1, batch_id="", user_id="", user_folder="", fence="", attempt=1, max_attempts=1,
        aspect_ratio="1:1",
        example_image_url="a", example_image_prompt="", training_image_urls=("b",), base_prompt="",
        num_images=1, missing=(0,),
    )  # fmt: skip
    assert build_prompt(job).strip() in head
    options = {re.sub(r"_(\w)", lambda match: match[1].upper(), field.name) for field in fields(Style)}
    for name in ("basePrompt", "trainingImageUrls", "exampleImages", "numImagesPerExample", *options):
        assert f"`{name}`" in head, name


PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "sql").glob("*.md"))]
INSTALLS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```.*?\n(.*?)```", page.read_text(), re.DOTALL))
    if "pip install" in block
]


@pytest.mark.parametrize("block", INSTALLS)
def test_packages_go_into_an_environment_of_their_own(block: str) -> None:
    """No page installs into the system's Python, which Debian and Homebrew refuse (PEP 668)."""
    before, _, _ = block.partition("pip install")
    assert ". .venv/bin/activate" in before or ".venv/bin/" in before.splitlines()[-1]


COMMAND = re.compile(r"^(?:python -m worker |\|.*\| `(?=gate |hosts |models ))([^`\n]+)", re.MULTILINE)
"""What follows `python -m worker` on a line of its own, and in the table of settings in the database."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_worker_accepts_every_command_of_a_page(page: Path) -> None:
    """No page names a command or option that the worker does not have."""
    for command in COMMAND.findall(page.read_text()):
        parser().parse_args(shlex.split(command, comments=True))


def test_operations_lists_every_command() -> None:
    """The list of commands leaves none out."""
    listed = {command.split()[0] for command in COMMAND.findall((ROOT / "docs/operations.md").read_text())}
    assert listed == {name for name in commands(parser()) if re.fullmatch(r"[a-z]\S*", name)}


def test_psql_stops_at_the_first_error() -> None:
    """Every documented psql command with one of our files stops and fails at its first error."""
    sources = [
        *PAGES,
        *ROOT.glob("sql/**/*.sql"),
        *ROOT.glob("worker/**/*.py"),
        ROOT / "local/install_sql.py",
    ]
    for path in sources:
        for command in re.findall(r"psql\b[^`\n]* -f\b", path.read_text()):
            assert "-v ON_ERROR_STOP=1" in command, f"{path.name}: {command}"


def test_the_settings_page_names_exactly_the_variables_that_are_read() -> None:
    """No variable is missing or left over."""
    source = (ROOT / "worker" / "settings.py").read_text() + (
        ROOT / "worker" / "log" / "events.py"
    ).read_text()
    read = set(re.findall(r'"([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)"', source)) - {
        "K_SERVICE",
        "CLOUD_RUN_JOB",
        "KUBERNETES_SERVICE_HOST",
    }
    told = set(re.findall(r"^\| `([A-Z_]+)` \|", SETTINGS.read_text(), re.MULTILINE))
    assert told == read


def test_the_settings_pages_defaults_are_the_codes() -> None:
    """Each default in the table is compared."""
    source = (ROOT / "worker" / "settings.py").read_text()
    in_code = dict(re.findall(r'read\.(?:number|whole)\(\s*"([A-Z_]+)", ([\d.]+)', source))
    in_table = dict(re.findall(r"^\| `([A-Z_]+)` \| `([\d.]+)` \|", SETTINGS.read_text(), re.MULTILINE))
    assert in_code.keys() <= in_table.keys()
    for name, default in in_code.items():
        assert float(in_table[name]) == float(default), name


def test_the_summary_is_explained() -> None:
    """The page explains every stop reason and every image count."""
    _, _, page = HTTP.read_text().partition("## A run's summary")
    section, _, _ = page.partition("\n## ")
    reasons, images = section.split("| field |")
    assert set(re.findall(r"^\| `([a-z_]+)` \|", reasons, re.MULTILINE)) == set(get_args(StopReason))
    assert tuple(re.findall(r"^\| `(\w+)` \|", images, re.MULTILINE)) == IMAGE_COUNTS


def write() -> None:
    """Run the examples and write what they print into docs/http.md."""
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as downloads,
        Stack(Path(folder), durable=False) as stack,
        Simulator(scale=0.25) as simulator,
        example_environment(stack, simulator) as env,
    ):

        def rendered(match: re.Match[str]) -> str:
            command, _ = split(match[1])
            return f"```console\n$ {command}\n{run(command, env, Path(downloads))}\n```"

        HTTP.write_text(CONSOLE.sub(rendered, HTTP.read_text()))


if __name__ == "__main__":
    write()
