"""cloudbuild.yaml: Google's types take it, its substitutions exist, its services get what they need."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]

from tests.support.cloud import PROJECT, ROOT, Done
from tests.support.cloud_build import (
    BUILT_IN,
    FILE,
    SCRIPT_VARIABLE,
    TESTS,
    VARIABLE,
    Workspace,
    build,
    substituted,
    values,
    workspace,
)
from tests.support.yaml_text import read_yaml
from worker.settings import OrderSettings, Settings

PG_CRON = {"_CLOCK": "pg_cron"}
CLOCK = f"generation-clock@{PROJECT}.iam.gserviceaccount.com"
SERVICES = ("generation-worker", "generate-images")


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A build's folder, and a project in which nothing is deployed yet."""
    return workspace(tmp_path)


def flags(done: Sequence[Done], *command: str) -> dict[str, str]:
    """The flags of the one call of a command."""
    [argv] = [argv for each in done for argv in each.commands if argv[: len(command)] == list(command)]
    pairs = [word[2:].partition("=") for word in argv if word.startswith("--")]
    return {name: value for name, _, value in pairs}


def environment(done: Sequence[Done], service: str) -> dict[str, str]:
    """The variables a service gets, each secret's value being the secret's name."""
    given = flags(done, "run", "deploy", service)
    pairs = given["set-env-vars"].removeprefix("^;^").split(";") + given["set-secrets"].split(",")
    return dict(pair.split("=", 1) for pair in pairs)


def usable(found: dict[str, str]) -> dict[str, str]:
    """The variables with a value of the right shape in place of each secret, and Cloud Run's own."""
    made = {"generation-supabase-url:latest": "https://abc.supabase.co"}
    given = {
        name: made.get(value, f"the-value-of-{value}" if value.endswith(":latest") else value)
        for name, value in found.items()
    }
    return given | {"K_SERVICE": "generation-worker"}


def test_cloudbuild_uses_only_the_apis_keys_enums_and_durations() -> None:
    """The steps come in this order."""
    assert [step.id for step in build().steps] == ["settings", "source", *SERVICES, "clock"]
    assert [step.id for step in build(TESTS).steps] == ["test"]
    assert min(build(file).timeout.seconds for file in (FILE, TESTS)) >= 3600


def test_what_deploys_installs_nothing_and_what_installs_may_nothing() -> None:
    """A package of the locks that turns hostile meets no right while it is installed and tested."""
    accounts = {build(file).service_account.rpartition("/")[2].partition("@")[0] for file in (FILE, TESTS)}
    assert accounts == {"generation-build", "generation-test"}
    scripts = "\n".join(step.script for step in build().steps)
    assert not re.search(r"(?m)(^|[|;&(] *)\s*(make|pip3?|npm|npx|uv|pytest|python3?) ", scripts)
    assert "generation-test" not in scripts and "gcloud" not in build(TESTS).steps[0].script


def test_images_are_pinned_before_anything_is_deployed(place: Workspace) -> None:
    """A build in an image that only a tag names stops, and says which command pins it."""
    assert place.run("settings").code == 0
    (place.folder / FILE.name).write_text(FILE.read_text().replace("slim@sha256:", "slim #"))
    done = place.run("settings")
    assert done.code == 1 and "deploy/pin.sh" in done.out
    assert re.fullmatch(
        r"mirror\.gcr\.io/library/python:3\.11@sha256:[0-9a-f]{64}", build(TESTS).steps[0].name
    )


def test_google_would_refuse_a_mistake() -> None:
    """A key or a value that the API does not have is found."""
    mistakes: list[dict[str, Any]] = [
        {"substitution": {}},
        {"timeout": "soon"},
        {"options": {"logging": "NO"}},
    ]
    for mistake in mistakes:
        with pytest.raises(json_format.ParseError):
            json_format.ParseDict(read_yaml(FILE.read_text()) | mistake, type(build())())


@pytest.mark.parametrize("file", [FILE, TESTS], ids=lambda file: file.name)
def test_every_substitution_is_declared(file: Path) -> None:
    """Fields and scripts use exactly the declared substitutions."""
    found = json_format.MessageToDict(build(file))
    scripts = " ".join(step.pop("script") for step in found["steps"])
    declared = set(found.pop("substitutions"))
    used = set(VARIABLE.findall(json.dumps(found))) | set(SCRIPT_VARIABLE.findall(scripts))
    assert used - set(BUILT_IN) == declared


def test_undeclared_substitution_is_found() -> None:
    """Resolving one that nothing declares is an error, not an empty text."""
    with pytest.raises(KeyError):
        substituted("python:${_PYTHONN}", values())
    assert substituted("python:${_PYTHON}", values()) == "python:3.11"


def test_scripts_use_no_unset_variable() -> None:
    """Each script stops at the first failure and at a variable that nothing sets."""
    for step in [*build().steps, *build(TESTS).steps]:
        assert "\nset -euo pipefail\n" in step.script, step.id


@pytest.mark.parametrize("mistake", [{"_CLOCK": "cron"}, {"_CLOK": "pg_cron"}, {"_CLOCK": ""}])
def test_mistyped_substitution_stops_the_build(place: Workspace, mistake: dict[str, str]) -> None:
    """A substitution with another name or value than there is ends the build at once and says so."""
    done = place.run("settings", mistake)
    assert done.code == 1
    assert next(iter(mistake)) in done.out


def test_tests_are_those_named(place: Workspace) -> None:
    """The named targets of make are what is run."""
    make = place.cloud.folder / "bin" / "make"
    make.write_text('#!/bin/sh\necho "make $*"\n')
    make.chmod(0o755)
    assert place.run("test", {}, TESTS).out == "make test\n"
    assert place.run("test", {"_TARGETS": "check test"}, TESTS).out == "make check test\n"


@pytest.mark.parametrize("substitutions", [{}, PG_CRON], ids=["scheduler", "pg_cron"])
def test_services_get_settings_that_work(place: Workspace, substitutions: dict[str, str]) -> None:
    """Each service gets all the settings that it reads, and no other service's secret."""
    done = place.deploy(substitutions | {"_SETTINGS": "JOBS_AT_A_TIME=5;GEMINI_MODEL_FALLBACK=off"})
    assert [each.code for each in done] == [0] * 5, done[-1].out
    given = environment(done, "generation-worker")
    settings = Settings.from_env(usable(given), "w")
    assert (settings.jobs_at_a_time, settings.gemini_model_fallback) == (5, None)
    assert settings.oidc_behind_iam == (not substitutions)
    assert bool(settings.worker_secret) == bool(substitutions)
    assert settings.operator_secret
    assert settings.oidc_service_account == (None if substitutions else CLOCK)
    orders = environment(done, "generate-images")
    assert OrderSettings.from_env(usable(orders)).cors_allowed_origins == ("*",)
    assert set(orders) == {"SUPABASE_URL", "SUPABASE_ANON_KEY", "CORS_ALLOWED_ORIGINS"}


def test_cloud_runs_timeouts_are_those_the_worker_expects(place: Workspace) -> None:
    """Each function has its own account, and no idle instances."""
    done = place.deploy()
    worker = flags(done, "run", "deploy", "generation-worker")
    given = environment(done, "generation-worker")
    assert worker["timeout"] == given["INVOCATION_TIMEOUT_SECONDS"]
    assert worker["set-custom-audiences"] == given["OIDC_AUDIENCE"]
    for service in SERVICES:
        found = flags(done, "run", "deploy", service)
        assert found["service-account"] == f"{service}@{PROJECT}.iam.gserviceaccount.com"
        assert found["function"] in (ROOT / "main.py").read_text()
        assert found["base-image"] == "python311"
        assert found["min-instances"] == "0"
        assert int(found["max-instances"]) <= 5


def test_comments_of_the_file_name_things_that_exist() -> None:
    """The file's own example of a command names substitutions that it declares."""
    named = set(re.findall(r"(_[A-Z]+)=", FILE.read_text().split("substitutions:")[0]))
    assert named
    assert named <= set(build().substitutions)
