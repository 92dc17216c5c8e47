"""cloudbuild.yaml as Cloud Build would run it: read into Google's types, substituted, its scripts run."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf import json_format  # type: ignore[import-untyped]

from tests.support.cloud import DOT_ENV, PROJECT, ROOT, Done, StandInCloud, bootstrap
from tests.support.yaml_text import read_yaml

FILE = ROOT / "cloudbuild.yaml"
TESTS = ROOT / "cloudbuild-test.yaml"
UNPINNED = re.compile(r"(?m)^(    name: &gcloud [^@\n]+)$")
BUILT_IN = {"PROJECT_ID": PROJECT, "PROJECT_NUMBER": "1", "BUILD_ID": "b", "LOCATION": "global"}
"""What Cloud Build always substitutes ("Substituting variable values")."""

VARIABLE = re.compile(r"\$\{?(_?[A-Z][A-Z0-9_]*)\}?")
SCRIPT_VARIABLE = re.compile(r"\$\{?(_[A-Z][A-Z0-9_]*|PROJECT_ID)\b")
NOTHING: Mapping[str, str] = MappingProxyType({})


def build(file: Path = FILE) -> Any:
    """A build as Google's own type. Raises ParseError for a key, enum or duration that it does not have."""
    from google.cloud.devtools.cloudbuild_v1 import Build  # takes half a second of each process that collects

    return json_format.ParseDict(read_yaml(file.read_text()), Build.pb(Build()))


def substituted(text: str, values: Mapping[str, str]) -> str:
    """The text with each $NAME and ${NAME} replaced. Raises KeyError for one that nothing declares."""
    return VARIABLE.sub(lambda found: values[found[1]], text)


def values(substitutions: Mapping[str, str] = NOTHING, file: Path = FILE) -> dict[str, str]:
    """All substitutions of a build: Google's, the file's defaults, and those given."""
    return BUILT_IN | dict(build(file).substitutions) | dict(substitutions)


class Workspace:
    """The folder in which a build's steps run in sequence, against one project."""

    def __init__(self, cloud: StandInCloud) -> None:
        self.cloud = cloud
        self.folder = cloud.folder / "workspace"
        self.folder.mkdir()
        for path in ROOT.iterdir():  # .gcloudignore keeps back more, but nothing else that a step would meet
            if not path.name.startswith("."):
                (self.folder / path.name).symlink_to(path)
        for path in (FILE, TESTS):  # deploy/pin.sh writes into these
            (self.folder / path.name).unlink()
            (self.folder / path.name).write_text(UNPINNED.sub(rf"\1@sha256:{64 * '0'}", path.read_text()))

    def run(self, step: str, substitutions: Mapping[str, str] = NOTHING, build_file: Path = FILE) -> Done:
        """Run one step's script in an environment as Cloud Build makes it."""
        found = build(build_file)
        [script] = [each.script for each in found.steps if each.id == step]
        file = self.folder / "script"
        file.write_text(script)
        file.chmod(0o755)
        given = values(substitutions, build_file)
        pairs = [substituted(pair, given).partition("=") for pair in found.options.env]
        environment = given | {name: value for name, _, value in pairs}
        return self.cloud.run([str(file)], self.folder, environment=environment)

    def deploy(self, substitutions: Mapping[str, str] = NOTHING) -> list[Done]:
        """Run every step of cloudbuild.yaml, until one fails."""
        done: list[Done] = []
        for step in build().steps:
            if not done or done[-1].code == 0:
                done.append(self.run(step.id, substitutions))
        return done


@cache
def prepared() -> str:
    """A new project after bootstrap.sh, as JSON; built once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        cloud = StandInCloud(Path(folder))
        done = bootstrap(cloud, "--clock", "pg_cron", stdin=DOT_ENV)
        assert done.code == 0, done.out
        return json.dumps(cloud.state | {"calls": []})


def workspace(folder: Path) -> Workspace:
    """A workspace, and a project as bootstrap.sh leaves it."""
    return Workspace(StandInCloud(folder, **json.loads(prepared())))
