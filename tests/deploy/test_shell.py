"""All shell of the repository passes shellcheck, also that in cloudbuild.yaml and docs/deploy.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cloud import ROOT
from tests.support.cloud_build import build
from tests.support.deploy_page import blocks

CHECK = str(Path(sys.executable).with_name("shellcheck"))
FILES = [".ci/run", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("*/*.sh")))]


def check(*arguments: str, text: str = "") -> str:
    """The findings of shellcheck."""
    done = subprocess.run([CHECK, *arguments], cwd=ROOT, input=text, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES)
def test_every_shell_file_passes_shellcheck(file: str) -> None:
    """Style findings count too."""
    assert check("--external-sources", file) == ""


def test_steps_of_the_build() -> None:
    """Every step's script is free of findings."""
    for step in build().steps:
        assert check("-", text=step.script) == "", step.id


def test_blocks_of_the_page() -> None:
    """Every shell block of the page is free of findings."""
    for block in blocks():
        if block.info.startswith("sh"):
            assert check("--shell=bash", "-", text=block.text) == "", block.text


def test_shellcheck_finds_a_missing_quote() -> None:
    """This proves that shellcheck works, so that an empty result means something."""
    assert "SC2086" in check("--shell=bash", "-", text="echo $1\n")
    assert {"deploy/bootstrap.sh", "deploy/gcloud.sh", "local/install.sh", ".ci/run"} <= set(FILES)
