"""cloudbuild.yaml from one clock to the other: no open door to a worker that believes, no two clocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cloud import PROJECT
from tests.support.cloud_build import Workspace, workspace

PG_CRON = {"_CLOCK": "pg_cron"}
CLOCK = f"generation-clock@{PROJECT}.iam.gserviceaccount.com"


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A build's folder, and a project in which nothing is deployed yet."""
    return workspace(tmp_path)


HISTORIES: list[list[dict[str, str]]] = [
    [{}],
    [PG_CRON],
    [{}, {}],
    [PG_CRON, PG_CRON],
    [{}, PG_CRON],
    [PG_CRON, {}],
    [{}, PG_CRON, {}],
]


def _names(history: list[dict[str, str]]) -> str:
    return "-".join(given.get("_CLOCK", "scheduler") for given in history)


@pytest.mark.slow
@pytest.mark.parametrize("pinned", [False, True], ids=["", "rolled-back"])
@pytest.mark.parametrize("history", HISTORIES, ids=_names)
def test_no_open_service_believes_tokens(place: Workspace, history: Any, pinned: bool) -> None:
    """During a change of schedulers, no open service ever trusts unchecked tokens."""
    for given in history:
        done = place.deploy(given)
        assert done[-1].code == 0, done[-1].out
        doors = [door for each in done for door in each.doors]
        assert doors
        assert not [name for name, opened, trusts in doors if opened and trusts]
        assert doors[-1][0] == "generate-images"
        now = {name: (opened, trusts) for name, opened, trusts in doors[-2:]}
        assert now["generate-images"] == (True, False)
        assert now["generation-worker"] == ((True, False) if given else (False, True))
        services = place.cloud.state["services"]
        services["generation-worker"]["pinned"] = pinned
        place.cloud.change(services=services)


def test_whoever_was_let_in_by_hand_is_not_any_more(place: Workspace) -> None:
    """With `scheduler` only the scheduler's account may call, whatever the policy was before."""
    opened = {"checked": False, "invokers": ["allUsers", "user:x@example.com"]}
    other = {"trusting": False, "latest": False, "pinned": False}
    place.cloud.change(services={"generation-worker": opened | other})
    done = place.deploy()
    assert not [name for each in done for name, opened, trusts in each.doors if opened and trusts]
    assert place.cloud.state["services"]["generation-worker"]["invokers"] == [f"serviceAccount:{CLOCK}"]


@pytest.mark.parametrize("failing", ["run services update generation-worker", "run services set-iam-policy"])
def test_door_that_does_not_close_stops_the_deployment(place: Workspace, failing: str) -> None:
    """If the service cannot be closed, no revision that relies on that is deployed."""
    place.deploy(PG_CRON)
    place.cloud.change(failing=[failing])
    done = place.deploy()
    assert done[-1].code == 1
    assert not [argv for argv in done[-1].commands if argv[:2] == ["run", "deploy"]]


def test_schedule_comes_changes_and_goes(place: Workspace) -> None:
    """Jobs are created once, then updated; pg_cron removes them, so that two clocks never call."""
    verbs = []
    for given in ({}, {}, PG_CRON, PG_CRON, {}):
        done = place.deploy(given)[-1]
        assert done.code == 0, done.out
        verbs.append([argv[2] for argv in done.commands if argv[0] == "scheduler" and argv[2] != "list"])
        assert set(place.cloud.state["jobs"]) == (
            set() if given else {"generation-worker", "generation-worker-sweep"}
        )
    assert verbs == [["create"] * 2, ["update"] * 2, ["delete"] * 2, [], ["create"] * 2]
    job, sweep = place.cloud.state["jobs"].values()
    assert (job["uri"], sweep["uri"]) == (
        "https://generation-worker-1.run.app/",
        "https://generation-worker-1.run.app/sweep",
    )
    assert job["oidc-service-account-email"] == CLOCK
