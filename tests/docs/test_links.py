"""Every page's links within the repository, and every page that the code names, lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMING = ("worker/**/*.py", "sql/**/*.sql", "deploy/**/*", "local/demo/*.py", "*.yaml", ".env.example")
PAGES = sorted(path for folder in (".", "docs", "sql") for path in (ROOT / folder).glob("*.md"))


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    """A file or a heading of this repository."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in slugs(file), target


def test_pages_that_the_code_names_exist() -> None:
    """A page that an error's hint, a comment or an alert refers to exists."""
    files = [path for pattern in NAMING for path in ROOT.glob(pattern) if path.is_file()]
    named = {name for file in files for name in re.findall(r"\b(?:docs|sql)/\w[\w-]*\.md", file.read_text())}
    assert {"docs/settings.md", "docs/troubleshooting.md"} <= named
    assert {name for name in named if not (ROOT / name).exists()} == set()
