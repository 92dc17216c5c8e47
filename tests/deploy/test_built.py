"""The built folders, with requirements.txt alone, serve everything that is documented."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.bare import Checkout
from tests.support.built import OPERATOR_SECRET, SECRET, served
from tests.support.cloud import ROOT
from tests.support.cloud_build import Workspace, workspace
from tests.support.runs import Site, process_environment
from tests.support.yaml_text import read_yaml

pytestmark = pytest.mark.slow

LINKED = re.compile(r"""(?:src|href)=["']?(?!data:|#|https?:)([^"'\s>]+)""")


def files(folder: Path) -> set[str]:
    """The files in a folder, without what Python makes of them and without a virtual environment."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if not {"__pycache__", ".venv"} & set(path.parts)}


def operations(function: str) -> Iterator[tuple[str, str, Any, int]]:
    """Every operation of a description: method, path, an example of its body, the status of success."""
    described = read_yaml((ROOT / "docs" / "openapi" / f"{function}.yaml").read_text())
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            examples = [example["value"] for example in content.get("examples", {}).values()]
            yield method, path, examples[0] if examples else {}, int(min(operation["responses"]))


@pytest.mark.parametrize("function", ["process_generation_queue", "generate_images"])
async def test_every_route_of_the_description_is_served(built: Checkout, site: Site, function: str) -> None:
    """Each documented path and method of the deployed functions succeeds, as does all that a page loads."""
    credentials = {"Authorization": f"Bearer {site.stack.sign_up()[1]}"}
    if function == "process_generation_queue":
        credentials = {"X-Worker-Secret": SECRET, "X-Operator-Secret": OPERATOR_SECRET}
    (job,) = await site.order("one")
    async with httpx.AsyncClient(timeout=60, trust_env=False, headers=credentials) as http:
        with served(built, site, function) as (_, url):
            for method, path, body, success in operations(function):
                params = {"id": job} if path == "/batch" else {}
                answer = await http.request(method, f"{url}{path}", json=body, params=params)
                assert answer.status_code == success, (method, path, answer.text)
                if answer.headers.get("content-type", "").startswith("text/html"):
                    for link in LINKED.findall(answer.text):
                        loaded = await http.get(httpx.URL(f"{url}{path}").join(link))
                        assert loaded.status_code == 200, link


async def test_the_jobs_own_command_makes_the_ordered_photos(built_job: Checkout, site: Site) -> None:
    """The test runs the command of the job's Procfile."""
    (job,) = await site.order("one")
    kind, _, command = (built_job.folder / "Procfile").read_text().strip().partition(": ")
    assert kind == "web"
    environment = process_environment(site.stack, site.gemini)
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=built_job.folder, capture_output=True, text=True, timeout=60,
        env=environment | {"PATH": f"{built_job.bin}:/usr/bin:/bin"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert site.job(job)["status"] == "completed"


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A build's folder."""
    return workspace(tmp_path)


def test_whatever_is_put_into_the_package_is_deployed(place: Workspace) -> None:
    """A subpackage or a data file that is added later is in the built folder; caches and tests are not."""
    package = place.folder / "worker"
    package.unlink()
    shutil.copytree(ROOT / "worker", package)
    (package / "later" / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "data.json", "__pycache__/__init__.cpython-311.pyc"):
        (package / "later" / name).write_text("")
    assert place.run("source").code == 0
    function = place.folder / "function"
    assert list(function.rglob("__pycache__")) == []
    assert files(function / "worker") == files(package)
    assert {path.name for path in function.iterdir()} == {"main.py", "requirements.txt", "worker"}


def test_functions_and_job_are_built_from_the_same_files(built: Checkout, built_job: Checkout) -> None:
    """The job has the function's files, and its Procfile."""
    assert files(built_job.folder) == files(built.folder) | {"Procfile"}


def test_the_upload_leaves_nothing_of_it_behind() -> None:
    """No pattern of .gcloudignore or .gitignore matches a file that is deployed."""
    patterns = [
        line.strip().rstrip("/")
        for name in (".gcloudignore", ".gitignore")
        for line in (ROOT / name).read_text().splitlines()
        if line.strip() and line[0] not in "#!"
    ]
    assert "__pycache__" in patterns
    for name in ("main.py", "requirements.txt", *(f"worker/{file}" for file in files(ROOT / "worker"))):
        path = Path(name)
        parts = [path, *path.parents]
        assert not [p for p in patterns if any(part.match(p) for part in parts)], name
