"""Formats the answer of `generation_queue_stats` as Prometheus text. Pure.

All metrics are gauges, read from the database at each request, so every worker returns the same values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from worker import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST
QUANTILES = {"p50": "0.5", "p95": "0.95", "p99": "0.99"}
Sample = tuple[tuple[str, ...], float | bool | None]


def metrics_text(stats: Mapping[str, Any]) -> bytes:
    """The numbers in the text format. A null has no sample, so that it does not read as zero."""
    registry = CollectorRegistry()
    registry.register(_Numbers(stats))
    return generate_latest(registry)


class _Numbers(Collector):
    def __init__(self, stats: Mapping[str, Any]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Every metric of the queue."""
        for part in (_queue, _windows, _gates, _limits, _runs):
            yield from part(self._stats)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Empty: the registry is used for one response only."""
        return ()


def _metric(
    name: str, help_text: str, labels: tuple[str, ...], samples: Iterable[Sample]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"generation_{name}", help_text, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, float(value))
    return family


def _one(name: str, help_text: str, value: float | bool | None) -> GaugeMetricFamily:
    return _metric(name, help_text, (), [((), value)])


def _queue(stats: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    due, ages = stats["due"], stats["ages"]
    names = {
        "ready": "ready",
        "waiting": "waiting",
        "rate_limited": "rateLimited",
        "processing": "processing",
    }
    yield _metric("queue_jobs", "Jobs that have not ended.", ("status",),
        [((label,), stats[name]) for label, name in names.items()])  # fmt: skip
    bounds = ["+Inf" if bound is None else str(bound) for bound in ages["upToSeconds"]]
    statuses = {"pending": "pending", "rate_limited": "rateLimited", "processing": "processing"}
    yield _metric("queue_age_jobs", "Jobs that have not ended, by time since the order, each in one range.",
        ("status", "up_to_seconds"),
        [((label, bound), count) for label, name in statuses.items()
            for bound, count in zip(bounds, ages[name], strict=True)])  # fmt: skip
    yield _one("queue_stale_jobs", "Jobs whose worker died.", stats["stale"])
    yield _one("queue_due_jobs", "Jobs that can be claimed now.", due["jobs"])
    yield _one("queue_due_images", "Missing images of due jobs.", due["images"])
    yield _one("queue_oldest_due_seconds", "Time since the oldest due job was ordered; 0 if none is due.",
        due["oldestSeconds"] or 0)  # fmt: skip
    yield _one("queue_next_attempt_seconds", "Time until a job can be claimed; absent if there is none.",
        stats["nextAttemptInSeconds"])  # fmt: skip


def _windows(stats: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    windows = {window["name"]: window for window in stats["windows"]}

    def each(field: str) -> list[Sample]:
        return [((name, key), n) for name, window in windows.items() for key, n in window[field].items()]

    def quantiles(field: str, per_second: float) -> list[Sample]:
        return [
            ((name, quantile), None if window[field][key] is None else window[field][key] / per_second)
            for name, window in windows.items()
            for key, quantile in QUANTILES.items()
        ]

    yield _metric("window_jobs", "Jobs that ended within the window.", ("window", "status"), each("jobs"))
    yield _metric(
        "window_images",
        "Images completed or refused within the window.",
        ("window", "result"),
        each("images"),
    )
    yield _metric("window_failures", "Failed jobs by error code.", ("window", "code"), each("failuresByCode"))
    yield _metric(
        "window_refusals", "Refused images by error code.", ("window", "code"), each("refusalsByCode")
    )
    labels = ("window", "quantile")
    yield _metric(
        "job_duration_seconds", "Time from order to completion.", labels, quantiles("jobSeconds", 1)
    )
    yield _metric(
        "image_duration_seconds",
        "Duration of calls to Gemini that made an image.",
        labels,
        quantiles("imageMs", 1000),
    )


def _gates(stats: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    gates = {gate["model"]: gate for gate in stats["gate"]["gates"]}
    for name, field, help_text in (
        ("gate_rate", "rate", "Current limit of starts per window."),
        ("gate_window_seconds", "windowSeconds", "Length of the rate's window."),
        ("gate_allowed_rate", "allowed", "Starts per window that the operator allows."),
        ("gate_learned_rate", "learnedRate", "Starts per window learned from 429s; absent if none."),
        ("gate_blocked_seconds", "blockedForSeconds", "Time until the block ends."),
        ("gate_probing", "probing", "1 while a start above a stated rate is being tried."),
        ("gate_images_today", "startedToday", "Images started today (California time)."),
        ("gate_dollars_today", "dollarsToday", "Cost of the images started today."),
    ):
        yield _metric(name, help_text, ("model",), [((model,), gate[field]) for model, gate in gates.items()])
    yield _metric("gate_closed", "1 for the reason why no image can start; absent if images can start.",
        ("model", "reason"),
        [((model, gate["closedBy"]), 1) for model, gate in gates.items() if gate["closedBy"]])  # fmt: skip


def _limits(stats: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    gate = stats["gate"]
    yield _one("paused", "1 while an operator has paused generation.", gate["pausedAt"] is not None)
    held = stats["heldBy"]
    yield _metric("queue_held", "1 for the reason why no job can start; absent if jobs can.", ("reason",),
        [((held,), 1)] if held else [])  # fmt: skip
    yield _metric("model_end_days", "Days until the announced end of a model in use.", ("model",),
        [((model["model"],), model["endsInDays"]) for model in stats["models"]])  # fmt: skip
    yield _metric("warnings", "1 for each warning.", ("about", "subject"),
        [((each["about"], each["subject"]), 1) for each in stats["warnings"]])  # fmt: skip
    yield _one("images_today", "Images started today, all models.", gate["startedToday"])
    yield _one("dollars_today", "Cost of the images started today, all models.", gate["spentToday"])
    yield _one("images_per_day", "Daily cap in images; absent if none is set.", gate["imagesPerDay"])
    yield _one("dollars_per_day", "Daily cap in dollars; absent if none is set.", gate["dollarsPerDay"])


def _runs(stats: Mapping[str, Any]) -> Iterator[GaugeMetricFamily]:
    runs, last = stats["runs"], stats["runs"]["lastFinished"]
    yield _one("runs_active", "Runs in progress.", runs["active"])
    yield _one("runs_max", "Most concurrent runs.", stats["gate"]["maxRuns"])
    yield _one("runs_last_hour", "Runs that started within the last hour.", runs["lastHour"])
    yield _one("runs_died_last_hour", "Runs whose deadline passed within the last hour before they ended.",
        runs["diedLastHour"])  # fmt: skip
    yield _one(
        "last_run_seconds",
        "Time since the start of the last run that was not idle.",
        runs["secondsSinceLast"],
    )
    reason = last and last["stopReason"]
    yield _metric("last_run_stopped", "1 for the stop reason of the last finished run.", ("reason",),
        [((reason,), 1)] if reason else [])  # fmt: skip
    yield _one("schema_version", "Version of the database schema.", stats["schemaVersion"])
    yield _metric("worker_info", "1, with the version of the worker that responds.", ("version",),
        [((__version__,), 1)])  # fmt: skip
