"""What each command does, given a worker: results on stdout, the log on stderr, the exit code returned."""

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
from worker.errors import Misconfigured, ProjectRefused, QueueRefused, QueueUnavailable
from worker.gemini.models import KnownModels, unused_note
from worker.http.validation import RequestRefused, parse_object
from worker.ops.check import check
from worker.ops.check_models import followed
from worker.ops.check_variables import misspelled_findings
from worker.ops.cloud_run import Resource, named_service
from worker.ops.finding import Finding, passed
from worker.ops.health import health, unreachable
from worker.ops.status_text import findings_text, gate_table, hosts_table, models_table, queue_table
from worker.run.model_retirement import known_models
from worker.run.request import RunRequest

OK = 0
FAILED = 1
"""The run failed, the queue could not be reached or refused."""

UNUSABLE = 2
"""The arguments, a file or the settings cannot be used; argparse exits with it too."""


LIMITS = {
    "images_per_day": "imagesPerDay",
    "dollars_per_day": "dollarsPerDay",
    "user_images_queued": "userImagesQueued",
    "user_images_per_day": "userImagesPerDay",
    "user_dollars_per_day": "userDollarsPerDay",
    "max_runs": "maxRuns",
    "max_age_hours": "maxAgeHours",
}
"""The options of `gate set` that are the same for all models, as `set_generation_limits` names them."""


class Unusable(Exception):
    """What was given cannot be used; the text says why."""


def say(text: str) -> None:
    """Write a result: one line, or several, to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_json(value: Mapping[str, Any]) -> None:
    """Write a result for machines: one object on one line."""
    say(json.dumps(value))


async def tick(worker: Worker, options: Namespace) -> int:
    """One run, or with --dry-run a look at what it would claim."""
    if options.dry_run:
        say_json(await worker.peek(options.max_jobs))
        return OK
    most = worker.settings.invocation_timeout_seconds
    if options.budget_seconds is not None and options.budget_seconds > most:
        raise Unusable(f"--budget-seconds is at most the invocation timeout, {most:g}")
    with stop_on_signal(worker.stop):
        summary = await run_once(worker, RunRequest(options.max_jobs, options.budget_seconds))
    if summary is None:
        sys.stderr.write("error: told to end, the run did not in time; its jobs come back by themselves\n")
        return FAILED
    say_json(summary)
    return FAILED if summary["stopReason"] in ("misconfigured", "queue_lost") else OK


async def run(worker: Worker, _options: Namespace) -> int:
    """Run after run until the process is told to end."""
    with stop_on_signal(worker.stop):
        await loop(worker, Forever(worker.settings.max_idle_seconds, worker.uniform))
    return OK


async def drain(worker: Worker, options: Namespace) -> int:
    """Run after run until the queue is empty, or nothing is due soon."""
    pace = Drain(options.patience, worker.uniform)
    with stop_on_signal(worker.stop):
        await loop(worker, pace)
    say_json(pace.as_json())
    return FAILED if pace.failed else OK


async def enqueue(worker: Worker, options: Namespace) -> int:
    """An order from a file, with the service key."""
    request = read_order(options.file)
    try:
        say_json(await worker.queue.enqueue(request, options.idempotency_key))
    except QueueUnavailable as error:
        if options.idempotency_key:
            raise
        text = f"{error.message}; the order may have been taken all the same (python -m worker status)"
        raise QueueUnavailable(error.code, text) from error
    return OK


def read_order(name: str) -> dict[str, Any]:
    """The JSON object in a file, or on stdin for `-`. Raises Unusable."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return parse_object(data.removeprefix(codecs.BOM_UTF8), "application/json")
    except OSError as exc:
        raise Unusable(f"{name} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # a NUL in the name
        raise Unusable("that is not the name of a file") from exc
    except RequestRefused as exc:
        where = "stdin" if name == "-" else name
        said = exc.message.replace("the body", "the order")
        raise Unusable(f"{where}: {said}") from exc


async def status(worker: Worker, options: Namespace) -> int:
    """The queue in numbers, once or again and again; tables on a terminal, plain text elsewhere."""
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
    """The numbers every so many seconds, or that there are none, until the process is told to end."""
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
    """One batch or job with all its images."""
    details = await worker.queue.rpc("generation_details", {"p_id": options.id})
    if options.json:
        say_json(details)
    else:
        say(details_text(details))
    return OK


async def release_stale(worker: Worker, options: Namespace) -> int:
    """Old locks are taken away."""
    params = {"p_older_than_seconds": options.older_than_seconds}
    say_json(await worker.queue.rpc("release_stale_generation_jobs", params))
    return OK


async def retry_failed(worker: Worker, options: Namespace) -> int:
    """Failed jobs are taken up again."""
    params = {
        "p_batch_id": options.batch,
        "p_including_refused": options.including_refused,
        "p_limit": options.limit,
    }
    say_json(await worker.queue.rpc("retry_failed_generation_jobs", params))
    return OK


async def gate(worker: Worker, options: Namespace) -> int:
    """Rates, caps and pause: show them, or change them and show them."""
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
    """What was named, and nothing else. Raises Unusable if that is nothing."""
    call = worker.queue.rpc
    limits = {field: getattr(options, name) for name, field in LIMITS.items() if hasattr(options, name)}
    if options.allow_anonymous:
        limits["allowAnonymous"] = options.allow_anonymous == "yes"
    rated = options.rate is not None or options.burst is not None
    if not limits and not rated:
        raise Unusable("gate set: name what to set, for example --rate 10 or --images-per-day 500")
    if rated and options.model and not options.new_model:
        await _must_be_known(worker, options.model)
    answer: Mapping[str, Any] = {}
    if limits:
        answer = await call("set_generation_limits", {"p_limits": limits})
    if rated:
        model = options.model or worker.settings.gemini_model_name
        known = await known_models(worker.queue)
        used = [worker.settings.gemini_model_name, *followed(worker.settings, known)]
        if note := unused_note(model, used, known):
            sys.stderr.write(f"warning: {note}\n")
        params = {"p_model": model, "p_rate": options.rate, "p_burst": options.burst}
        answer = await call("set_generation_rate", params)
    return answer


async def _must_be_known(worker: Worker, model: str) -> None:
    """A name that nothing knows is most likely misspelled; its gate would hold nobody. Raises Unusable."""
    models = KnownModels(await worker.queue.rpc("generation_models", {}))
    known = {*models.rows, worker.settings.gemini_model_name, *followed(worker.settings, models)}
    if model not in known:
        names = ", ".join(sorted(known))
        raise Unusable(
            f"gate set: no model {model!r} is known; known are {names} (--new-model takes it all the same)"
        )


async def _remove_gate(worker: Worker, model: str) -> Mapping[str, Any]:
    """The gates that are left. Raises Unusable for the worker's own and for one that is not there."""
    if model == worker.settings.gemini_model_name:
        raise Unusable(f"gate remove: {model} is the model of these settings; its gate is in use")
    answer = await worker.queue.rpc("remove_generation_gate", {"p_model": model})
    if not answer["removed"]:
        names = ", ".join(each["model"] for each in answer["gates"]) or "none"
        raise Unusable(f"gate remove: {model!r} has no gate; there are: {names}")
    return answer


async def models(worker: Worker, options: Namespace) -> int:
    """What is known of the models, after a correction if one is named. Raises Unusable for an empty one."""
    call = worker.queue.rpc
    if options.action == "set":
        names = {"dollars": "dollars", "ends": "announcedEnd", "successor": "announcedSuccessor"}
        facts = {field: getattr(options, name) for name, field in names.items() if hasattr(options, name)}
        facts |= {"available": True} if options.available else {}
        if not facts:
            raise Unusable("models set: name what to set, for example --ends 2027-03-15 or --dollars 0.039")
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
    """The hosts that photos may come from, after one was added or removed."""
    call, own = worker.queue.rpc, worker.project.photo_host
    if options.action == "add":
        answer = await call("add_generation_photo_host", {"p_host": options.host})
    elif options.action == "remove":
        if options.host.lower() == own:
            raise Unusable("hosts remove: this is the project's own host; every run allows it again")
        answer = await call("remove_generation_photo_host", {"p_host": options.host})
        if not answer["removed"]:
            names = ", ".join(answer["hosts"]) or "none"
            raise Unusable(f"hosts remove: {options.host!r} is not in the list: {names}")
    else:
        answer = await call("generation_photo_hosts", {})
    if options.json:
        say_json(answer)
    else:
        say(hosts_table(answer["hosts"], own))
    return OK


async def cancel(worker: Worker, options: Namespace) -> int:
    """What a batch still waits for is not made."""
    say_json(await worker.queue.rpc("cancel_generation_batch", {"p_batch_id": options.batch}))
    return OK


async def sweep(worker: Worker, options: Namespace) -> int:
    """Stored objects that no row tells of are removed."""
    done = await worker.sweep(options.limit)
    say_json(done)
    return FAILED if done["failures"] else OK


async def prune(worker: Worker, options: Namespace) -> int:
    """What ended long ago is removed, photos excepted."""
    params = {"p_older_than_days": options.older_than_days, "p_limit": options.limit}
    say_json(await worker.queue.rpc("prune_generation_history", params))
    return OK


async def erase(worker: Worker, options: Namespace) -> int:
    """A user is removed from every table, and from Storage. Raises Unusable if that was not confirmed."""
    if not options.yes:
        sys.stderr.write(
            f"This removes every order and every generated photo of {options.user!r}, for good.\n"
            "Type the user id to go on: "
        )
        sys.stderr.flush()
        if sys.stdin.readline().strip() != options.user:
            raise Unusable("nothing was erased: the user id was not confirmed (--yes does without)")
    done = await worker.erase(options.user)
    say_json(done)
    if not any(count for name, count in done.items() if name.endswith("Removed")):
        sys.stderr.write(
            f"note: nothing of {options.user!r} was found: no order, photo, key or stored object. "
            "If somebody else was meant, check the id.\n"
        )
    return FAILED if done.get("failures") else OK


async def look(worker: Worker, options: Namespace) -> int:
    """Everything a run needs is looked at."""
    findings = [*await check(worker, _service(options)), *misspelled_findings(os.environ)]
    report(findings, options.json)
    return OK if passed(findings) else FAILED


def _service(options: Namespace) -> Resource | None:
    try:
        return named_service(options.service, options.project, options.region)
    except ValueError as exc:
        raise Unusable(str(exc)) from exc


def report(findings: Sequence[Finding], as_json: bool) -> None:
    """Write findings to stdout."""
    if as_json:
        say_json({"ok": passed(findings), "findings": [finding.as_json() for finding in findings]})
    else:
        say(findings_text(findings))


def complain(error: QueueRefused | QueueUnavailable | Misconfigured) -> None:
    """Tell on stderr what went wrong and what to do about it."""
    said, hint = error.message, "python -m worker check looks at everything"
    if isinstance(error, QueueRefused):
        hint = error.hint or ""
    elif isinstance(error, ProjectRefused):
        said, hint = error.said, error.fix
    elif isinstance(error, QueueUnavailable):
        said = f"Supabase did not answer: {error.message}"
    sys.stderr.write(f"error: {said} ({error.code})\n" + (f"hint: {hint}\n" if hint else ""))
