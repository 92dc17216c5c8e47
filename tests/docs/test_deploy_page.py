"""docs/deploy.md is true: every block runs, or runs against a simulated account."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.cloud import ROOT
from tests.support.deploy_page import PAGE, blocks, run_the_page

SHELL = {"sh here", "sh account"}


def test_every_block_is_accounted_for() -> None:
    """A block runs here, needs an account, or is a picture without a command; there is no other kind."""
    for block in blocks():
        assert block.info in SHELL | {""}, block.info
        if not block.info:
            assert not re.search(r"gcloud |^\s*(python|deploy/|cp |make |curl )", block.text, re.MULTILINE)
        if block.info == "sh here":
            assert "gcloud" not in block.text
    assert len([block for block in blocks() if block.info in SHELL]) >= 17


def test_no_command_hides_between_the_blocks() -> None:
    """Outside the blocks, no gcloud command has arguments that nothing checks."""
    prose = re.sub(r"```.*?```", "", PAGE.read_text(), flags=re.DOTALL)
    inline = [code for code in re.findall(r"`([^`]+)`", prose) if code.startswith("gcloud ")]
    shown = " ".join(block.text for block in blocks())
    assert [code for code in inline if code not in shown] == []


@pytest.mark.slow
def test_the_page_works_from_top_to_bottom(tmp_path: Path) -> None:
    """From a new project to its end, no command fails."""
    done = run_the_page(tmp_path)
    for block, result in done:
        assert result.code == 0, f"{block.text}\n{result.out}"
    answers = {block.text.split()[4]: result.out for block, result in done if "status.url" in block.text}
    assert answers["generate-images"] == "https://generate-images-1.run.app\n"


def test_every_link_of_the_deploy_page_has_a_target() -> None:
    """A file or a heading of this repository."""
    for target in re.findall(r"\]\(([^)]+)\)", PAGE.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (PAGE.parent / path).resolve() if path else PAGE
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, target


def test_names_of_the_page_exist() -> None:
    """Substitutions, accounts and secrets that the page names are those of the build and of bootstrap.sh."""
    text = PAGE.read_text()
    build = (ROOT / "cloudbuild.yaml").read_text()
    for name in set(re.findall(r"\b_[A-Z]+(?:_[A-Z]+)*\b", text)):
        assert f"\n  {name}: " in build, name
    bootstrap = (ROOT / "deploy" / "bootstrap.sh").read_text()
    for name in set(re.findall(r"`(generation-[a-z-]+)`", text)):
        assert name in bootstrap, name
