"""The command line's parser: commands, options and their limits."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from worker import __version__
from worker.cli import commands, manual
from worker.cli.drain import PATIENCE_SECONDS
from worker.run.request import MAX_JOBS

DEFAULT_ENV_FILE = Path(".env")
"""Read by default; may be missing."""


def parser() -> argparse.ArgumentParser:
    """The whole parser; its result has `handler` and `needs_gemini`."""
    main = argparse.ArgumentParser(
        prog="python -m worker",
        usage="python -m worker [OPTIONS] COMMAND ...",
        description=manual.MAIN,
        epilog=manual.EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main.add_argument("--version", action="version", version=f"generation-worker {__version__}")
    _environment(main, DEFAULT_ENV_FILE)
    found = main.add_subparsers(dest="command", metavar="COMMAND", required=True, prog="python -m worker")
    _add_runs(found)
    _add_operations(found)
    return main


def _add_runs(found: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The commands that process jobs, and the one that puts them into the queue."""
    _tick(_command(found, "tick", "do one run", manual.TICK, commands.tick, needs_gemini=True))
    _command(found, "run", "do runs until stopped", manual.RUN, commands.run, needs_gemini=True)
    _drain(
        _command(
            found,
            "drain",
            "do runs until the queue is empty",
            manual.DRAIN,
            commands.drain,
            needs_gemini=True,
        )
    )
    _enqueue(_command(found, "enqueue", "enqueue an order", manual.ENQUEUE, commands.enqueue))


def _add_operations(found: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The commands that show, control and clean up the queue."""
    _status(_command(found, "status", "show the queue's numbers", manual.STATUS, commands.status))
    _show(_command(found, "show", "show a batch or a job", manual.SHOW, commands.show))
    _release(
        _command(found, "release-stale", "release old locks", manual.RELEASE_STALE, commands.release_stale)
    )
    _retry(_command(found, "retry-failed", "retry failed jobs", manual.RETRY_FAILED, commands.retry_failed))
    _gate(_command(found, "gate", "show or change rates and caps", manual.GATE, commands.gate))
    _models(_command(found, "models", "show or correct models and prices", manual.MODELS, commands.models))
    _hosts(_command(found, "hosts", "show or change the hosts of photos", manual.HOSTS, commands.hosts))
    photo = _command(found, "photo", "show what Gemini gets of a photo", manual.PHOTO, commands.photo)
    photo.add_argument("reference", metavar="REFERENCE", help="https://… or bucket/path, as in an order")
    photo.add_argument("--out", metavar="FILE", required=True, help="where to write what would be sent")
    cancel = _command(found, "cancel", "cancel a batch", manual.CANCEL, commands.cancel)
    cancel.add_argument("batch", metavar="BATCH", help="the batch's id")
    _sweep(_command(found, "sweep", "remove orphaned objects", manual.SWEEP, commands.sweep))
    _prune(_command(found, "prune", "remove old history", manual.PRUNE, commands.prune))
    erase = _command(found, "erase", "erase a user", manual.ERASE, commands.erase)
    erase.add_argument("user", metavar="USER_ID", help="the user's id, as in the token's `sub`")
    erase.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    _check(
        _command(
            found,
            "check",
            "check everything that a run needs",
            manual.CHECK,
            commands.look,
            needs_gemini=True,
        )
    )


def _command(
    found: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    description: str,
    handler: Callable[..., object],
    needs_gemini: bool = False,
) -> argparse.ArgumentParser:
    command = found.add_parser(
        name,
        help=summary,
        description=description,
        epilog=manual.EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(handler=handler, needs_gemini=needs_gemini)
    # These options may also stand before the command, so the ones after it must not have a default.
    _environment(command, argparse.SUPPRESS)
    return command


def _environment(command: argparse.ArgumentParser, default: Path | str) -> None:
    group = command.add_mutually_exclusive_group()
    group.add_argument(
        "--env-file", metavar="PATH", default=default, help="read settings from this file instead of .env"
    )
    group.add_argument(
        "--no-env-file", dest="env_file", action="store_const", const=None, help="do not read a .env file",
        default=argparse.SUPPRESS,
    )  # fmt: skip


def _gate(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    _json(actions.add_parser("show", help="show rates, learned rates, caps and pause"))
    change = actions.add_parser("set", help="set a model's rate, or the caps for all models")
    change.add_argument("--model", metavar="NAME", help="the model (default: GEMINI_MODEL_NAME)")
    change.add_argument("--rate", metavar="N", type=whole(1, 100_000), help="images per minute")
    change.add_argument(
        "--burst", metavar="N", type=whole(0, 1000), help="images that may start at once; 0: half of the rate"
    )
    for name, kind, help_text in (
        ("--images-per-day", cap, "daily cap in images, or `none`"),
        ("--dollars-per-day", cap, "daily cap in dollars, or `none`"),
        ("--user-images-queued", cap, "waiting images of one user, or `none`"),
        ("--user-images-per-day", cap, "images that one user may order per day, or `none`"),
        ("--user-dollars-per-day", cap, "dollars that one user may spend per day, or `none`"),
        ("--max-runs", whole(1, 1000), "concurrent runs"),
        ("--max-age-hours", whole(1, 8760), "age at which a waiting job fails"),
    ):
        change.add_argument(name, metavar="N", type=kind, default=argparse.SUPPRESS, help=help_text)
    change.add_argument(
        "--allow-anonymous", choices=("yes", "no"), help="whether Supabase's anonymous users may order"
    )
    change.add_argument("--new-model", action="store_true", help="allow a model that is not known yet")
    remove = actions.add_parser("remove", help="remove the gate of an unused model")
    remove.add_argument("model", metavar="MODEL", help="the model's name")
    pause = actions.add_parser("pause", help="start no image until `gate resume`")
    pause.add_argument("reason", metavar="REASON", nargs="?", help="shown by status, check and the dashboard")
    actions.add_parser("resume", help="end a pause and every block")


def _show(command: argparse.ArgumentParser) -> None:
    command.add_argument("id", metavar="BATCH|JOB", help="the id of a batch or a job")
    _json(command)


def _models(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    _json(actions.add_parser("list", help="show prices, announced ends, successors"))
    change = actions.add_parser("set", help="correct a model for all workers")
    _json(change)
    change.add_argument("model", metavar="MODEL", help="the model's full name")
    for name, metavar, kind, help_text in (
        ("--dollars", "N", cap, "price of a 1K image, or `none`"),
        ("--ends", "DATE", text_or_none, "announced end, like 2027-03-15, or `none`"),
        ("--successor", "NAME", text_or_none, "the model that replaces it, or `none`"),
    ):
        change.add_argument(name, metavar=metavar, type=kind, default=argparse.SUPPRESS, help=help_text)
    change.add_argument("--source", metavar="TEXT", help="source of the correction")
    change.add_argument("--available", action="store_true", help="forget that Google answered 404 for it")


def _hosts(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    _json(actions.add_parser("list", help="show the hosts that https:// photos may come from"))
    for name, help_text in (("add", "allow photos from a host"), ("remove", "remove a host")):
        change = actions.add_parser(name, help=help_text)
        _json(change)
        change.add_argument(
            "host", metavar="HOST", help="a host, `*.example.com` for all its subdomains, or `*`"
        )


def text_or_none(text: str) -> str | None:
    """A string, or None for `none`."""
    return None if text.lower() == "none" else text


def cap(text: str) -> float | None:
    """A daily cap: a number from 0, or None for `none`."""
    if text.lower() == "none":
        return None
    value = _float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, or none, not {text}")
    return value


def _tick(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-jobs", metavar="N", type=whole(1, MAX_JOBS), help="claim at most N jobs (default: MAX_JOBS)"
    )
    command.add_argument(
        "--budget-seconds",
        metavar="S",
        type=number(1, 3600),
        help="take at most S seconds (default: INVOCATION_TIMEOUT_SECONDS)",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="show what a run would claim, without claiming it"
    )


def _drain(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--patience",
        metavar="SECONDS",
        type=number(0, 3600),
        default=PATIENCE_SECONDS,
        help=f"longest wait for the next due job (default: {PATIENCE_SECONDS:g})",
    )


def _enqueue(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE.json", help="the order, or - for stdin")
    command.add_argument(
        "--idempotency-key", metavar="KEY", help="enqueue orders with the same key only once"
    )


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one line of JSON instead of text")


def _status(command: argparse.ArgumentParser) -> None:
    _json(command)
    command.add_argument("--watch", action="store_true", help="refresh until Ctrl-C")
    command.add_argument(
        "--every-seconds", metavar="S", type=number(0.1, 3600), default=2.0,
        help="seconds between refreshes (default: 2)",
    )  # fmt: skip


def _check(command: argparse.ArgumentParser) -> None:
    _json(command)
    command.add_argument(
        "--project", metavar="PROJECT", help="also check the service deployed in this project"
    )
    command.add_argument("--region", metavar="REGION", help="the service's region")
    command.add_argument(
        "--service",
        metavar="NAME",
        help="its name (default: generation-worker), or all three as projects/P/locations/L/services/S",
    )


def _release(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--older-than-seconds", metavar="S", type=number(0, 10**9), default=300.0,
        help="minimum age of the locks (default: 300)",
    )  # fmt: skip


def _retry(command: argparse.ArgumentParser) -> None:
    command.add_argument("--batch", metavar="BATCH", help="only jobs of this batch (default: all)")
    command.add_argument("--including-refused", action="store_true", help="also retry what Gemini refused")
    command.add_argument(
        "--limit", metavar="N", type=whole(1, 100_000), default=1000, help="at most N jobs (default: 1000)"
    )


def _sweep(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--limit",
        metavar="N",
        type=whole(1, 100_000),
        help="sweep the folders of at most N jobs (default: 500)",
    )


def _prune(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--older-than-days", metavar="D", type=whole(1, 36_500), default=30,
        help="remove what ended at least D days ago (default: 30)",
    )  # fmt: skip
    command.add_argument(
        "--limit",
        metavar="N",
        type=whole(1, 100_000),
        default=1000,
        help="remove about N of each kind (default: 1000)",
    )


def whole(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers in this range."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
        return int(text)

    return read


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def number(least: float, most: float) -> Callable[[str], float]:
    """A parser of numbers in this range; refuses NaN."""

    def read(text: str) -> float:
        value = _float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be a number from {least:g} to {most:g}")
        return value

    return read
