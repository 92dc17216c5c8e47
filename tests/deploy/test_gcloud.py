"""Every gcloud command of the deployment is one that gcloud takes, and its mistakes would be found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import deploy_page
from tests.support.cloud import DOT_ENV, PROJECT, StandInCloud, bootstrap
from tests.support.cloud_build import workspace
from tests.support.deploy_page import commands_of_the_page
from tests.support.gcloud_flags import USED, complaint, installed, table
from tests.support.gcloud_parser import complaints, objection

Commands = tuple[list[list[str]], Path]


def commands_of_bootstrap(folder: Path) -> Commands:
    """All that deploy/bootstrap.sh runs in a new project, and in one that has everything."""
    cloud = StandInCloud(folder)
    done = [bootstrap(cloud, "--clock", "pg_cron", stdin=DOT_ENV) for _ in range(2)]
    assert [each.code for each in done] == [0, 0]
    return [argv for each in done for argv in each.commands], folder


def commands_of_the_build(folder: Path) -> Commands:
    """All that cloudbuild.yaml runs, from one clock to the other and back."""
    place = workspace(folder)
    clocks = ("scheduler", "scheduler", "pg_cron")
    done = [each for clock in clocks for each in place.deploy({"_CLOCK": clock})]
    assert {each.code for each in done} == {0}
    return [argv for each in done for argv in each.commands], place.folder


SOURCES: dict[str, Callable[[Path], Commands]] = {
    "bootstrap.sh": commands_of_bootstrap,
    "cloudbuild.yaml": commands_of_the_build,
    "docs/deploy.md": commands_of_the_page,
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_commands_against_the_table(source: str, tmp_path: Path) -> None:
    """Each command and flag is in the SDK's table, with a value if it needs one."""
    commands, folder = SOURCES[source](tmp_path)
    assert commands
    assert [text for text in (complaint(argv, folder) for argv in commands) if text] == []


@pytest.mark.system
def test_gclouds_parser_accepts_each_command(tmp_path: Path) -> None:
    """Where gcloud is not installed, the table decides."""
    all_of_them = {}
    for name, source in SOURCES.items():
        place = tmp_path / name.replace("/", "-")
        place.mkdir()
        commands, folder = source(place)
        for argv in commands:
            # A command that differs only by the page's project need not be read again.
            all_of_them[tuple(word.replace(deploy_page.PROJECT, PROJECT) for word in argv)] = folder
    assert len(all_of_them) > 60
    assert complaints(all_of_them, tmp_path) == []


MISTAKES = [
    ["run", "deploy", "a", "--image=b", "--region=c", "--timeout-seconds=5"],
    ["run", "deploy", "a", "--image=b", "--region=c", "--execution-environment=gen3"],
    ["run", "deploy", "a", "--image=b", "--region=c", "--max-instances"],
    ["run", "deploi", "a"],
    ["run", "deploy", "a", "--image=b", "--region=c", "--cpu-boost=yes"],
]


@pytest.mark.slow
@pytest.mark.parametrize("argv", MISTAKES, ids=lambda argv: argv[-1])
def test_the_table_finds_unknown_commands_flags_and_values(argv: list[str], tmp_path: Path) -> None:
    """Missing and surplus values too."""
    assert complaint(argv, tmp_path)


@pytest.mark.system
def test_gclouds_parser_finds_the_same_mistakes(tmp_path: Path) -> None:
    """gcloud's parser also accepts a correct command."""
    mistakes = {tuple(argv): tmp_path for argv in MISTAKES}
    assert len(complaints(mistakes, tmp_path)) == len(MISTAKES)
    assert complaints({("run", "deploy", "a", "--image=b", "--region=c"): tmp_path}, tmp_path) == []


@pytest.mark.slow
def test_the_table_stands_in_where_gcloud_is_missing(tmp_path: Path) -> None:
    """Without gcloud a command is judged by the table, which names its source."""
    assert "Google Cloud SDK" in table()["source"]
    assert set(table()["commands"]) == set(USED)
    assert objection(None, ["run", "deploy", "a", "--wrong"], tmp_path, tmp_path)
    assert objection(None, ["run", "deploy", "a", "--timeout=5"], tmp_path, tmp_path) is None


@pytest.mark.system
def test_the_table_is_the_sdks() -> None:
    """For the SDK version that it names, the table agrees flag by flag."""
    here = installed()
    if here is not None and here["source"] == table()["source"]:
        assert here == table()
    assert table()["commands"]["run deploy"]["--timeout"] == "value"
