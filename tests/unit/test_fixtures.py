"""Where shared fixtures come from."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PLUGINS = re.compile(r"^pytest_plugins = .*[\"']tests\.", re.MULTILINE)


def test_shared_fixtures_come_from_the_conftest_of_a_folder() -> None:
    """A module named as a plugin would lend its fixtures to every later test, whatever folder it is in."""
    assert [path.name for path in TESTS.rglob("*.py") if PLUGINS.search(path.read_text())] == []
