"""What people look for first in a repository: a short README, license, changelog, how to contribute."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from worker import __version__

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def headings(text: str) -> list[str]:
    """The second-level headings of a page."""
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


def test_the_readme_leads_to_the_license_the_changes_and_the_ways_in_and_out() -> None:
    """A visitor finds license, changelog, contributing, updating and uninstalling from the README."""
    for page in ("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/update.md", "docs/update.md#uninstall"):
        assert f"]({page})" in README, page


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    """A visitor reads the README in a few minutes, and finds every other page from it."""
    assert len(README.splitlines()) <= 200
    pages = sorted(ROOT.glob("docs/*.md"))
    assert [page.name for page in pages if f"](docs/{page.name})" not in README] == []


def test_the_license_is_the_one_that_the_package_names() -> None:
    """Text and metadata name the same license."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == (ROOT / "LICENSE").read_text().split()[0] == "MIT"


def test_the_changelog_has_the_version_that_runs() -> None:
    """A user can look up the version that HTTP or the command line shows."""
    versions = [heading for heading in headings((ROOT / "CHANGELOG.md").read_text()) if heading[0].isdigit()]
    assert versions[0].split()[0] == __version__


def test_contributing_names_commands_that_exist() -> None:
    """Each make target on the page is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = re.findall(r"\bmake ((?:[a-z-]+ ?)+)", (ROOT / "CONTRIBUTING.md").read_text())
    named = {target for command in told for target in command.split()}
    assert {"install", "check", "test"} <= named <= targets
