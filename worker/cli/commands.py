"""The commands. Each one takes a worker, prints its result to stdout and returns the exit code."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import os
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.app import Worker
from worker.cli.details import details_text
from worker.cli.drain import Drain
from worker.cli.loop import Forever, loop, run_once, stop_on_signal
from worker.errors import (
    BadInput,
    Misconfigured,
    PhotoUnreadable,
    ProjectRefused,
    QueueRefused,
    QueueUnavailable,
    Transient,
)
from worker.gemini.models import KnownModels, unused_note
from worker.http.validation import RequestRefused, parse_object
from worker.ops.check import check
from worker.ops.check_models import followed
from worker.ops.check_variables import misspelled_findings
from worker.ops.cloud_run import Resource, named_service
from worker.ops.finding import Finding, passed
from worker.ops.health import health, unreachable
from worker.ops.status_text import findings_text, gate_table, hosts_table, models_table, queue_table
from worker.run.request import RunRequest

OK = 0
FAILED = 1
"""The run failed, or Supabase could not be reached or refused the call."""

USAGE_ERROR = 2
"""The arguments, a file or the settings are invalid; argparse uses the same code."""


LIMITS = {
    "images_per_day": "imagesPerDay",
    "dollars_per_day": "dollarsPerDay",
    "user_images_queued": "userImagesQueued",
    "user_images_per_day": "userImagesPerDay",
    "user_dollars_per_day": "userDollarsPerDay",
    "max_runs": "maxRuns",
    "max_age_hours": "maxAgeHours",
}
"""The options of `gate set` for all models, with their names in `set_generation_limits`."""


class UsageError(Exception):
    """The arguments or a file are invalid; the text says why."""


def say(text: str) -> None:
    """Print a result to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_json(value: Mapping[str, Any]) -> None:
    """Print a result as one line of JSON."""
    say(json.dumps(value))


async def tick(worker: Worker, options: Namespace) -> int:
    """Do one run, or with --dry-run show what it would claim."""
    if options.dry_run:
        say_json(await worker.peek(options.max_jobs))
        return OK
    most = worker.settings.invocation_timeout_seconds
    if options.budget_seconds is not None and options.budget_seconds > most:
        raise UsageError(f"--budget-seconds is at most the invocation timeout, {most:g}")
    with stop_on_signal(worker.stop):
        summary = await run_once(worker, RunRequest(options.max_jobs, options.budget_seconds))
    if summary is None:
        sys.stderr.write("error: the run did not stop in time; the next run will pick up its jobs\n")
        return FAILED
    say_json(summary)
    return FAILED if summary["stopReason"] in ("misconfigured", "queue_lost") else OK


async def run(worker: Worker, _options: Namespace) -> int:
    """Do one run after the other until SIGTERM or Ctrl-C."""
    with stop_on_signal(worker.stop):
        await worker.warm_up()
        await loop(worker, Forever(worker.settings.max_idle_seconds, worker.uniform))
    return OK


async def drain(worker: Worker, options: Namespace) -> int:
    """Do one run after the other until the queue is empty, or no job is due soon."""
    pace = Drain(options.patience, worker.uniform)
    with stop_on_signal(worker.stop):
        await loop(worker, pace)
    say_json(pace.as_json())
    return FAILED if pace.failed else OK


async def enqueue(worker: Worker, options: Namespace) -> int:
    """Enqueue an order from a file, with the service key."""
    request = read_order(options.file)
    try:
        say_json(await worker.queue.enqueue(request, options.idempotency_key))
    except QueueUnavailable as error:
        if options.idempotency_key:
            raise
        text = f"{error.message}; the order may be enqueued nevertheless (see python -m worker status)"
        raise QueueUnavailable(error.code, text) from error
    return OK


def read_order(name: str) -> dict[str, Any]:
    """The JSON object in a file, or on stdin for `-`. Raises UsageError."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return parse_object(data.removeprefix(codecs.BOM_UTF8), "application/json")
    except OSError as exc:
        raise UsageError(f"{name} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # a NUL in the name
        raise UsageError("the file's name contains NUL") from exc
    except RequestRefused as exc:
        where = "stdin" if name == "-" else name
        message = exc.message.replace("the body", "the order")
        raise UsageError(f"{where}: {message}") from exc


async def status(worker: Worker, options: Namespace) -> int:
    """Show the queue's numbers, once or repeatedly: tables on a terminal, plain text elsewhere."""
    if not options.watch:
        _show(await worker.stats(), options.json)
        return OK
    with stop_on_signal(worker.stop):
        if options.json or not sys.stdout.isatty():
            async for answer in _answers(worker, options.every_seconds):
                if isinstance(answer, QueueUnavailable):
                    sys.stderr.write(f"{unreachable(answer)}\n")
                else:
                    _show(answer, options.json)
        else:
            from worker.cli import terminal

            await terminal.watch(_answers(worker, options.every_seconds))
    return OK


async def _answers(worker: Worker, seconds: float) -> AsyncIterator[Mapping[str, Any] | QueueUnavailable]:
    """The numbers, or the error of reading them, every `seconds` until the worker is stopped."""
    while not worker.stopping.is_set():
        answer: Mapping[str, Any] | QueueUnavailable
        try:
            answer = await worker.stats()
        except QueueUnavailable as error:
            answer = error
        yield answer
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker.stopping.wait(), seconds)


def _show(stats: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(stats)
    elif sys.stdout.isatty():
        from worker.cli import terminal

        terminal.show(stats)
    else:
        verdict = health(stats)
        say(f"{verdict.level}: {verdict.words}\n{queue_table(stats)}")


async def show(worker: Worker, options: Namespace) -> int:
    """Show one batch or job with its images."""
    details = await worker.queue.rpc("generation_details", {"p_id": options.id})
    if options.json:
        say_json(details)
    else:
        say(details_text(details))
    return OK


async def release_stale(worker: Worker, options: Namespace) -> int:
    """Release old locks."""
    params = {"p_older_than_seconds": options.older_than_seconds}
    say_json(await worker.queue.rpc("release_stale_generation_jobs", params))
    return OK


async def retry_failed(worker: Worker, options: Namespace) -> int:
    """Retry failed jobs."""
    params = {
        "p_batch_id": options.batch,
        "p_including_refused": options.including_refused,
        "p_limit": options.limit,
    }
    say_json(await worker.queue.rpc("retry_failed_generation_jobs", params))
    return OK


async def gate(worker: Worker, options: Namespace) -> int:
    """Change rates, caps or the pause, if asked to, and show them."""
    call = worker.queue.rpc
    answer: Mapping[str, Any]
    if options.action == "pause":
        answer = await call("pause_generation", {"p_reason": options.reason})
    elif options.action == "resume":
        answer = await call("resume_generation", {})
    elif options.action == "set":
        answer = await _set_gate(worker, options)
    elif options.action == "remove":
        answer = await _remove_gate(worker, options.model)
    else:
        answer = await call("generation_gate", {})
    if getattr(options, "json", False):
        say_json(answer)
    else:
        say(gate_table(answer))
    return OK


async def _set_gate(worker: Worker, options: Namespace) -> Mapping[str, Any]:
    """Set only the given options. Raises UsageError without any."""
    call = worker.queue.rpc
    limits = {field: getattr(options, name) for name, field in LIMITS.items() if hasattr(options, name)}
    if options.allow_anonymous:
        limits["allowAnonymous"] = options.allow_anonymous == "yes"
    rated = options.rate is not None or options.burst is not None
    if not limits and not rated:
        raise UsageError("gate set: add an option, for example --rate 10 or --images-per-day 500")
    if rated and options.model and not options.new_model:
        await _must_be_known(worker, options.model)
    answer: Mapping[str, Any] = {}
    if limits:
        answer = await call("set_generation_limits", {"p_limits": limits})
    if rated:
        model = options.model or worker.settings.gemini_model_name
        known = KnownModels(await worker.queue.known_models())
        used = [worker.settings.gemini_model_name, *followed(worker.settings, known)]
        if note := unused_note(model, used, known):
            sys.stderr.write(f"warning: {note}\n")
        params = {"p_model": model, "p_rate": options.rate, "p_burst": options.burst}
        answer = await call("set_generation_rate", params)
    return answer


async def _must_be_known(worker: Worker, model: str) -> None:
    """Raises UsageError for an unknown model, whose name is probably misspelled."""
    models = KnownModels(await worker.queue.rpc("generation_models", {}))
    known = {*models.rows, worker.settings.gemini_model_name, *followed(worker.settings, models)}
    if model not in known:
        names = ", ".join(sorted(known))
        raise UsageError(
            f"gate set: the model {model!r} is unknown; known are {names} (use --new-model to set it anyway)"
        )


async def _remove_gate(worker: Worker, model: str) -> Mapping[str, Any]:
    """Remove a gate; returns the others. Raises UsageError for the configured model or a missing gate."""
    if model == worker.settings.gemini_model_name:
        raise UsageError(f"gate remove: {model} is GEMINI_MODEL_NAME; its gate is in use")
    answer = await worker.queue.rpc("remove_generation_gate", {"p_model": model})
    if not answer["removed"]:
        names = ", ".join(each["model"] for each in answer["gates"]) or "none"
        raise UsageError(f"gate remove: {model!r} has no gate; models with a gate: {names}")
    return answer


async def models(worker: Worker, options: Namespace) -> int:
    """Show the models, after a correction if asked for. Raises UsageError if that has no options."""
    call = worker.queue.rpc
    if options.action == "set":
        names = {"dollars": "dollars", "ends": "announcedEnd", "successor": "announcedSuccessor"}
        facts = {field: getattr(options, name) for name, field in names.items() if hasattr(options, name)}
        facts |= {"available": True} if options.available else {}
        if not facts:
            raise UsageError("models set: add an option, for example --ends 2027-03-15 or --dollars 0.039")
        facts |= {"source": options.source} if options.source else {}
        answer = await call("set_generation_model", {"p_model": options.model, "p_facts": facts})
    else:
        answer = await call("generation_models", {})
    if options.json:
        say_json(answer)
    else:
        say(models_table(answer["models"]))
    return OK


async def hosts(worker: Worker, options: Namespace) -> int:
    """Add or remove a host of photos, if asked to, and show all hosts."""
    call, own = worker.queue.rpc, worker.project.photo_host
    if options.action == "add":
        answer = await call("add_generation_photo_host", {"p_host": options.host})
    elif options.action == "remove":
        if options.host.lower() == own:
            raise UsageError("hosts remove: this is the project's own host, which every run adds again")
        answer = await call("remove_generation_photo_host", {"p_host": options.host})
        if not answer["removed"]:
            names = ", ".join(answer["hosts"]) or "none"
            raise UsageError(f"hosts remove: {options.host!r} is not in the list: {names}")
    else:
        answer = await call("generation_photo_hosts", {})
    if options.json:
        say_json(answer)
    else:
        say(hosts_table(answer["hosts"], own))
    return OK


async def photo(worker: Worker, options: Namespace) -> int:
    """Write a source photo to a file as Gemini would get it."""
    try:
        made = await worker.photo(options.reference)
    except (BadInput, Transient, PhotoUnreadable) as error:
        sys.stderr.write(f"error: {error.message} ({error.code})\n")
        return FAILED
    try:
        await asyncio.to_thread(Path(options.out).write_bytes, made.data)
    except OSError as exc:
        raise UsageError(f"photo: {options.out} cannot be written: {exc.strerror}") from exc
    say_json({"bytes": made.original_bytes, "sentBytes": made.size, "sentType": made.mime_type})
    return OK


async def cancel(worker: Worker, options: Namespace) -> int:
    """Cancel the unfinished jobs of a batch."""
    say_json(await worker.queue.rpc("cancel_generation_batch", {"p_batch_id": options.batch}))
    return OK


async def sweep(worker: Worker, options: Namespace) -> int:
    """Remove orphaned objects."""
    done = await worker.sweep(options.limit)
    say_json(done)
    return FAILED if done["failures"] else OK


async def prune(worker: Worker, options: Namespace) -> int:
    """Remove old history, except photos."""
    params = {"p_older_than_days": options.older_than_days, "p_limit": options.limit}
    say_json(await worker.queue.rpc("prune_generation_history", params))
    return OK


async def erase(worker: Worker, options: Namespace) -> int:
    """Remove a user from all tables and from Storage. Raises UsageError if that was not confirmed."""
    if not options.yes:
        sys.stderr.write(
            f"This permanently removes every order and every generated photo of {options.user!r}.\n"
            "Type the user id to continue: "
        )
        sys.stderr.flush()
        if sys.stdin.readline().strip() != options.user:
            raise UsageError("nothing was erased: the user id was not confirmed (--yes skips the question)")
    done = await worker.erase(options.user)
    say_json(done)
    if not any(count for name, count in done.items() if name.endswith("Removed")):
        sys.stderr.write(
            f"note: nothing was found for {options.user!r}: no order, photo, key or stored object. "
            "Check that the user id is correct.\n"
        )
    return FAILED if done.get("failures") else OK


async def look(worker: Worker, options: Namespace) -> int:
    """Check everything that a run needs."""
    findings = [*await check(worker, _service(options)), *misspelled_findings(os.environ)]
    report(findings, options.json)
    return OK if passed(findings) else FAILED


def _service(options: Namespace) -> Resource | None:
    try:
        return named_service(options.service, options.project, options.region)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def report(findings: Sequence[Finding], as_json: bool) -> None:
    """Print findings to stdout."""
    if as_json:
        say_json({"ok": passed(findings), "findings": [finding.as_json() for finding in findings]})
    else:
        say(findings_text(findings))


def complain(error: QueueRefused | QueueUnavailable | Misconfigured) -> None:
    """Print an error and its hint to stderr."""
    message, hint = error.message, "run python -m worker check to find the cause"
    if isinstance(error, QueueRefused):
        hint = error.hint or ""
    elif isinstance(error, ProjectRefused):
        message, hint = error.problem, error.fix
    elif isinstance(error, QueueUnavailable):
        message = f"Supabase did not answer: {error.message}"
    sys.stderr.write(f"error: {message} ({error.code})\n" + (f"hint: {hint}\n" if hint else ""))
