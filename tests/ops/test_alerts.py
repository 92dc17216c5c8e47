"""Alert policies, rules and queries: Google takes them, and they look for what the code writes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]

from tests.support.events import events
from tests.support.gcloud_parser import complaints
from tests.support.queue_sql import Clock, Connection, Queue
from tests.support.yaml_text import read_yaml
from worker.ops.alerts import watched
from worker.ops.metrics import metrics_text

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "alerts.md").read_text()
FOLDER = ROOT / "deploy" / "alerts"
POLICIES = sorted(FOLDER.glob("policy-*.yaml"))
METRICS = sorted(FOLDER.glob("metric-*.yaml"))
BLOCKS = dict(re.findall(r"^```(.+)\n((?:.*\n)*?)```$", PAGE, re.MULTILINE))
PAYLOAD = re.compile(r'jsonPayload\.(\w+)(?:="(\w+)"|[<>])')
TODAY = """
    update generation.gates set "startedToday" = 9,
      today = (generation.moment() at time zone 'America/Los_Angeles')::date where model = 'model'"""


def read(path: Path) -> dict[str, Any]:
    """A file."""
    found: dict[str, Any] = read_yaml(path.read_text())
    return found


def filters(value: Any) -> list[str]:
    """Every filter in a file, at any depth."""
    if isinstance(value, dict):
        return [
            each for key, part in value.items() for each in ([part] if key == "filter" else filters(part))
        ]
    return [each for part in value for each in filters(part)] if isinstance(value, list) else []


def policy(written: dict[str, Any]) -> Any:
    """An alert policy as Google's own type. Raises ParseError for a key that it does not have."""
    from google.cloud.monitoring_v3.types import AlertPolicy

    return json_format.ParseDict(written, AlertPolicy.pb(AlertPolicy()))


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_google_takes_a_policy(path: Path) -> None:
    """Each is a policy as Cloud Monitoring knows it, and says what to do."""
    taken = policy(read(path))
    assert taken.conditions and taken.display_name and len(taken.documentation.content) > 100


@pytest.mark.parametrize("path", METRICS, ids=lambda path: path.stem)
def test_google_takes_a_metric(path: Path) -> None:
    """Each is a metric as Cloud Logging knows it."""
    from google.cloud.logging_v2.types import LogMetric

    assert json_format.ParseDict(read(path), LogMetric.pb(LogMetric())).filter


def test_google_would_refuse_a_mistake() -> None:
    """A key that a policy does not have is found."""
    with pytest.raises(json_format.ParseError):
        policy({"conditions": [{"conditionAbsence": {}}]})


@pytest.mark.parametrize("path", [*POLICIES, *METRICS], ids=lambda path: path.stem)
def test_what_is_looked_for_is_written(path: Path) -> None:
    """Events and fields that a filter names are those that the code logs."""
    for text in filters(read(path)):
        named = PAYLOAD.findall(text)
        if "metric.type" in text:
            continue
        messages = [value for field, value in named if field == "message"]
        assert messages and set(messages) <= events().keys(), text
        for field in {field for field, _ in named} - {"message"}:
            assert any(field in events()[name].fields for name in messages), (field, messages)


def test_metrics_that_are_counted_exist() -> None:
    """Policies count the metrics that the page makes, each from its file."""
    made = dict(re.findall(r"metrics create (\w+) --config-from-file=(\S+)", BLOCKS["sh account"] + PAGE))
    assert {ROOT / path for path in made.values()} == set(METRICS)
    text = "".join(path.read_text() for path in POLICIES)
    assert set(re.findall(r"user[_/](generation_\w+)", text)) == set(made)


RECORDER = """#!/bin/sh
for word in "$@"; do printf '%s\\0' "$word"; done >>"$CALLS"; printf '\\n' >>"$CALLS"
case "$*" in *"channels list"*) echo projects/p/notificationChannels/1 ;; esac
"""


def commands(folder: Path) -> list[tuple[str, ...]]:
    """Every gcloud command of the page's blocks as its shell runs it."""
    (folder / "gcloud").write_text(RECORDER)
    (folder / "gcloud").chmod(0o755)
    calls = folder / "calls"
    for block in re.findall(r"^```sh account\n((?:.*\n)*?)```$", PAGE, re.MULTILINE):
        environment = {"PATH": f"{folder}:/usr/bin:/bin", "CALLS": str(calls)}
        subprocess.run(["/bin/bash", "-euc", block], cwd=ROOT, env=environment, check=True, timeout=60)
    return [tuple(line.split("\0")[:-1]) for line in calls.read_text().splitlines()]


def test_the_commands_make_all_of_it(tmp_path: Path) -> None:
    """The page's blocks run: they make each metric, an address, and each policy with that address."""
    made = commands(tmp_path)
    policies = [argv for argv in made if "policies" in argv]
    files = {
        word.removeprefix("--policy-from-file=") for argv in policies for word in argv if "from-file" in word
    }
    assert {ROOT / file for file in files} == set(POLICIES)
    assert all("--notification-channels=projects/p/notificationChannels/1" in argv for argv in policies)
    assert len(made) == len(METRICS) + len(POLICIES) + 2


@pytest.mark.system
def test_gcloud_takes_the_commands(tmp_path: Path) -> None:
    """gcloud's own parser takes each command of the page."""
    if shutil.which("gcloud"):  # elsewhere nothing knows these commands: the table has the deployment's alone
        assert complaints(dict.fromkeys(commands(tmp_path), ROOT), tmp_path) == []


def trouble(db: Connection) -> dict[str, str]:
    """The rows of the page's query."""
    rows = db.execute(BLOCKS["sql watch"].encode()).fetchall()
    return {row["trouble"]: row["value"] for row in rows}


def test_the_query_finds_each_trouble(queue: Queue, db: Connection, clock: Clock) -> None:
    """A quiet queue has no row; waiting, failures, a stopped worker and a cap that is near have one each."""
    queue.open_gate()
    assert trouble(db) == {}
    queue.enqueue()
    clock.advance(901)
    assert set(trouble(db)) == {"jobs wait too long", "no run, though jobs are due"}
    queue.call("pause_generation")
    assert set(trouble(db)) == {"jobs wait too long"}  # a run that may claim nothing is not seen
    queue.call("resume_generation")
    run = queue.run()
    (job,) = run.claim()
    assert trouble(db) == {}
    queue.complete(job)
    run.finish(summary={"stopReason": "misconfigured"})
    assert set(trouble(db)) == {"misconfigured"}
    clock.advance(1)
    run = queue.run()
    queue.enqueue(examples=5)
    for job in run.claim():
        queue.settle(job, "failed", code="photo_missing", message="It is not there.")
    run.finish(summary={"stopReason": "queue_empty"})
    assert trouble(db) == {"many jobs fail": "5"}
    clock.advance(3601)
    queue.call("set_generation_limits", p_limits={"imagesPerDay": 10})
    db.execute(TODAY)
    found = trouble(db)
    assert set(found) == {"the cap of the day is near"}
    assert float(found.popitem()[1]) == 0.9


def test_what_the_log_is_told(queue: Queue) -> None:
    """The age is 0 when nothing is due; the share is that of the nearer cap, and None without one."""
    stats = queue.call("generation_queue_stats")
    assert watched(stats) == (0, 0, None)
    stats["due"] = {"jobs": 2, "images": 4, "oldestSeconds": 901.4}
    stats["gate"] |= {"spentToday": 5.0, "dollarsPerDay": 20, "startedToday": 9, "imagesPerDay": 10}
    assert watched(stats) == (2, 901, 0.9)
    stats["gate"] |= {"dollarsPerDay": 0, "imagesPerDay": None}
    assert watched(stats).cap_share == 1.0


def test_prometheus_rules_name_what_is_served(queue: Queue) -> None:
    """Every metric of the rules is one of GET /metrics."""
    stats = queue.call("generation_queue_stats")
    rules = read_yaml(BLOCKS["yaml prometheus"])["groups"][0]["rules"]
    assert len(rules) == len(POLICIES)
    known = set(re.findall(r"^# TYPE (\w+)", metrics_text(stats).decode(), re.MULTILINE))
    for rule in rules:
        named = set(re.findall(r"\bgeneration_\w+", rule["expr"]))
        assert named and named <= known, named - known
