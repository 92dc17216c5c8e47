"""docs/deploy.md, run from top to bottom against a project that is a file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from tests.support.cloud import DOT_ENV, ROOT, Done, StandInCloud
from tests.support.cloud_build import Workspace

PAGE = ROOT / "docs" / "deploy.md"
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
PROJECT = "my-photos-4711"
"""The project's id in the page's commands."""
BUILD = re.compile(r"gcloud builds submit")
CLOCK = re.compile(r"_CLOCK=(\w+)")
VARIABLES = re.compile(r"^export (.*)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: the words behind its fence, and its text."""

    info: str
    text: str


def blocks() -> list[Block]:
    """All fenced blocks of the page, in their order."""
    return [Block(info.strip(), text) for info, text in FENCE.findall(PAGE.read_text())]


def run_the_page(folder: Path) -> list[tuple[Block, Done]]:
    """Run each shell block of the page in order; a build that is submitted is carried out."""
    cloud = StandInCloud(folder)
    place = Workspace(cloud)
    (place.folder / ".env.example").symlink_to(ROOT / ".env.example")
    done, variables = [], ""
    for block in blocks():
        if not block.info.startswith("sh"):
            continue
        variables += "".join(f"export {found}\n" for found in VARIABLES.findall(block.text))
        script = f"set -eu\n{variables}{block.text}"
        done.append((block, cloud.run(["/bin/bash", "-c", script], place.folder, stdin="a-new-value\n")))
        if ".env.example .env" in block.text:
            (place.folder / ".env").write_text(DOT_ENV)
        if BUILD.search(block.text):
            found = CLOCK.search(block.text)
            built = place.deploy({"PROJECT_ID": PROJECT} | ({"_CLOCK": found[1]} if found else {}))
            assert built[-1].code == 0, built[-1].out
            shutil.rmtree(place.folder / "function")
    return done


def commands_of_the_page(folder: Path) -> tuple[list[list[str]], Path]:
    """Every gcloud command of the page as its shell runs it, those of bootstrap.sh among them."""
    return [argv for _, done in run_the_page(folder) for argv in done.commands], folder / "workspace"
