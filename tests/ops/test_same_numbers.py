"""SQL, GET /status, GET /metrics and the status command show the same numbers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from local.demo.function import Function
from tests.support.command_line import CommandLine
from tests.support.queue_sql import Clock, Queue
from tests.support.served import SECRET
from tests.support.yaml_text import read_yaml
from worker import __version__
from worker.cli.terminal import BARS, screen, sparkline
from worker.ops.metrics import metrics_text
from worker.supabase.queue import SCHEMA_VERSION

DESCRIPTION = Path(__file__).resolve().parents[2] / "docs" / "openapi" / "process_generation_queue.yaml"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    """Every sample by its name and labels; each occurs once, and its metric has help and a type."""
    families = list(text_string_to_metric_families(text))
    assert all(f.documentation and f.type == "gauge" and f.name.startswith("generation_") for f in families)
    found = [((s.name, frozenset(s.labels.items())), s.value) for f in families for s in f.samples]
    assert len(dict(found)) == len(found) > 50
    return dict(found)


def sample(samples: Samples, name: str, **labels: str) -> float:
    """One sample."""
    return samples[f"generation_{name}", frozenset(labels.items())]


def get(function: Function, path: str, **headers: str) -> httpx.Response:
    """An answer of the function."""
    return httpx.get(function.url + path, headers=headers, timeout=30)


def check_schema(stats: Any) -> None:
    """The answer is what OpenAPI says it is."""
    described = read_yaml(DESCRIPTION.read_text())
    schema = {"$ref": "#/components/schemas/Stats", "components": described["components"]}
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(stats)


def drawn(stats: Any) -> str:
    """What a wide terminal shows."""
    out = io.StringIO()
    console = Console(file=out, width=160)
    console.print(screen(stats, console))
    return out.getvalue()


@pytest.fixture
def busy(queue: Queue, clock: Clock) -> Queue:
    """A queue with some of everything: made, refused, failed, ready, delayed, active and dead."""
    facts = {"period": "minute", "retryAfterSeconds": 30, "limit": 10}
    queue.call("report_rate_limit", p_model="model", p_epoch=None, p_facts=facts)
    queue.call("resume_generation")  # the end of the block: the seconds left of it go on by themselves
    for outcome in ("completed", "failed", "rate_limited"):
        job = queue.claimed(images=3 if outcome == "rate_limited" else 2)
        queue.record(job, 0)
        queue.refuse(job, 1, 'odd "code"\\')
        clock.advance(7)
        queue.settle(job, outcome, retryInSeconds=600)
    failed = queue.claimed()
    queue.settle(failed, "failed", code="photo_missing")
    queue.run("w").finish(summary={"stopReason": "budget"})
    queue.enqueue(examples=3, images=4)
    queue.run().claim(1)
    queue.call("set_generation_limits", p_limits={"dollarsPerDay": 20, "imagesPerDay": 0})
    queue.connection.execute("""
        update generation.gates set "startedToday" = 12,
          today = (generation.moment() at time zone 'America/Los_Angeles')::date where model = 'model'""")
    return queue


async def test_all_four_outputs_show_the_same_numbers(
    busy: Queue, served_queue: Function, cli: CommandLine
) -> None:
    """At one moment of the database's clock."""
    told = busy.call("generation_queue_stats")
    assert get(served_queue, "/status", **{"X-Worker-Secret": SECRET}).json() == told
    assert (await cli.call("status", "--json")).json == told
    answer = get(served_queue, "/metrics", **{"X-Worker-Secret": SECRET})
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert answer.headers["cache-control"] == "no-store"
    assert parsed(answer.text) == parsed(metrics_text(told).decode())
    plain = (await cli.call("status")).out
    table = drawn(told)
    for label, field in (("ready", "ready"), ("rate limited", "rateLimited"), ("processing", "processing")):
        assert told[field] > 0
        for text in (plain, table):
            (line,) = [row for row in text.splitlines() if row.strip().startswith(f"{label} ")][:1]
            assert line.split()[len(label.split())] == str(told[field])


def test_metrics_name_the_version(queue: Queue) -> None:
    """A chart shows when an update took effect."""
    samples = parsed(metrics_text(queue.call("generation_queue_stats")).decode())
    assert sample(samples, "worker_info", version=__version__) == 1


def test_metrics_say_what_the_numbers_say(busy: Queue) -> None:
    """Every count, window, percentile, gate and cap has its sample, and what is null has none."""
    told = busy.call("generation_queue_stats")
    samples = parsed(metrics_text(told).decode())
    names = {
        "ready": "ready",
        "waiting": "waiting",
        "rate_limited": "rateLimited",
        "processing": "processing",
    }
    for status, field in names.items():
        assert sample(samples, "queue_jobs", status=status) == told[field]
    assert sample(samples, "queue_due_images") == told["due"]["images"] == 8
    assert sample(samples, "queue_oldest_due_seconds") == told["due"]["oldestSeconds"]
    for window in told["windows"]:
        name = window["name"]
        for status, count in window["jobs"].items():
            assert sample(samples, "window_jobs", window=name, status=status) == count
        for code, count in window["failuresByCode"].items():
            assert sample(samples, "window_failures", window=name, code=code) == count
        assert sample(samples, "window_refusals", window=name, code='odd "code"\\') == 3
        for key, quantile in (("p50", "0.5"), ("p95", "0.95"), ("p99", "0.99")):
            labels = {"window": name, "quantile": quantile}
            assert sample(samples, "job_duration_seconds", **labels) == window["jobSeconds"][key] == 7
            assert sample(samples, "image_duration_seconds", **labels) == window["imageMs"][key] / 1000 == 4
    assert (
        sample(samples, "gate_learned_rate", model="model")
        == sample(samples, "gate_rate", model="model")
        == 10
    )
    assert sample(samples, "gate_closed", model="model", reason="daily_cap") == 1
    assert sample(samples, "queue_held", reason="daily_cap") == 1
    assert sample(samples, "dollars_per_day") == 20 and sample(samples, "images_per_day") == 0
    assert sample(samples, "paused") == 0
    gate, runs = told["gate"], told["runs"]
    assert sample(samples, "images_today") == sample(samples, "gate_images_today", model="model") == 12
    assert sample(samples, "dollars_today") == gate["spentToday"] > 0
    assert sample(samples, "runs_active") == runs["active"] > 0
    assert sample(samples, "runs_last_hour") == runs["lastHour"] > runs["active"]
    assert sample(samples, "queue_due_jobs") == told["due"]["jobs"] == 2
    assert (
        sample(samples, "queue_age_jobs", status="pending", up_to_seconds="60")
        == told["ages"]["pending"][0]
        > 0
    )
    assert sample(samples, "last_run_stopped", reason="budget") == 1


def test_answers_are_as_described(busy: Queue, clock: Clock) -> None:
    """The JSON fits its schema with much in the database, and long after; a field more would not fit."""
    told = busy.call("generation_queue_stats")
    check_schema(told)
    busy.call("pause_generation", p_reason="lunch")
    clock.advance(40 * 86_400)
    check_schema(busy.call("generation_queue_stats"))
    with pytest.raises(jsonschema_rs.ValidationError):
        check_schema(told | {"more": 1})


async def test_why_the_last_run_could_not_work(queue: Queue, cli: CommandLine) -> None:
    """The problem is in the JSON, in the text and on a terminal."""
    problem = "The key is not valid."
    run = queue.run()
    queue.enqueue()
    run.claim()
    run.finish(summary={"stopReason": "misconfigured", "problem": problem})
    told = queue.call("generation_queue_stats")
    check_schema(told)
    assert told["runs"]["lastFinished"]["problem"] == told["lastRun"]["problem"] == problem
    assert f"misconfigured: {problem}" in (await cli.call("status")).out
    assert f"misconfigured: {problem}" in drawn(told)


def test_an_empty_queue_shows_no_measured_zero(queue: Queue) -> None:
    """Every output has an answer."""
    told = queue.call("generation_queue_stats")
    check_schema(told)
    samples = parsed(metrics_text(told).decode())
    assert sample(samples, "queue_oldest_due_seconds") == 0
    absent = {
        "generation_job_duration_seconds",
        "generation_last_run_seconds",
        "generation_queue_next_attempt_seconds",
    }
    assert not absent & {name for name, _ in samples}
    assert "Ended in the last" in drawn(told)


@pytest.mark.parametrize("path", ["/status", "/metrics"])
@pytest.mark.usefixtures("db")
def test_only_with_a_credential(served_queue: Function, path: str) -> None:
    """Without one, nobody sees the numbers; with the numbers' credential, nobody can change anything."""
    assert get(served_queue, path).status_code == 401
    assert get(served_queue, path, **{"X-Worker-Secret": "wrong-secret-0123456789"}).status_code == 401
    answer = httpx.post(served_queue.url + path, headers={"X-Worker-Secret": SECRET}, timeout=30)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


def test_a_sparkline_grows_with_its_values() -> None:
    """The highest bar is full, none is blank, and a small value is higher than zero."""
    assert sparkline([0, 1, 400, 800]) == f" {BARS[0]}{BARS[3]}{BARS[7]}"
    assert sparkline([]) == "" and sparkline([0, 0]) == "  "


async def test_watch_repeats_the_numbers_until_it_is_stopped(cli: CommandLine, db: object) -> None:
    """SIGTERM ends `status --watch` with exit code 0, after a complete line."""
    async with cli.start("status", "--watch", "--json", "--every-seconds", "0.1") as program:
        assert program.process.stdout is not None
        told = [json.loads(await program.process.stdout.readline()) for _ in range(2)]
        assert told[0]["at"] < told[1]["at"]
        program.process.terminate()
        rest, log = await program.process.communicate()
    assert program.process.returncode == 0, log
    assert all(json.loads(line)["schemaVersion"] == SCHEMA_VERSION for line in rest.splitlines())
