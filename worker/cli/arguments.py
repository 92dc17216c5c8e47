"""The command line's grammar: commands, options and their bounds."""

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
"""Read where no other is named; may be missing."""


def parser() -> argparse.ArgumentParser:
    """The whole grammar; what is parsed carries `handler` and `needs_gemini`."""
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
    _tick(_command(found, "tick", "do one run", manual.TICK, commands.tick, needs_gemini=True))
    _command(found, "run", "do runs until stopped", manual.RUN, commands.run, needs_gemini=True)
    _drain(_command(found, "drain", "do runs until empty", manual.DRAIN, commands.drain, needs_gemini=True))
    _enqueue(_command(found, "enqueue", "enqueue an order", manual.ENQUEUE, commands.enqueue))
    _status(_command(found, "status", "show the queue in numbers", manual.STATUS, commands.status))
    _show(_command(found, "show", "show a batch or a job", manual.SHOW, commands.show))
    _release(_command(found, "release-stale", "free old locks", manual.RELEASE_STALE, commands.release_stale))
    _retry(
        _command(
            found, "retry-failed", "take failed jobs up again", manual.RETRY_FAILED, commands.retry_failed
        )
    )
    _gate(_command(found, "gate", "show or change rate and caps", manual.GATE, commands.gate))
    _models(
        _command(found, "models", "show or correct what is known of models", manual.MODELS, commands.models)
    )
    _hosts(
        _command(found, "hosts", "show or change where photos may come from", manual.HOSTS, commands.hosts)
    )
    cancel = _command(found, "cancel", "cancel a batch", manual.CANCEL, commands.cancel)
    cancel.add_argument("batch", metavar="BATCH", help="the batch's id")
    _sweep(_command(found, "sweep", "remove stray objects", manual.SWEEP, commands.sweep))
    _prune(_command(found, "prune", "remove old history", manual.PRUNE, commands.prune))
    erase = _command(found, "erase", "erase a user", manual.ERASE, commands.erase)
    erase.add_argument("user", metavar="USER_ID", help="the user's id, as in the token's `sub`")
    erase.add_argument("--yes", action="store_true", help="do not ask")
    _check(
        _command(found, "check", "look for what is missing", manual.CHECK, commands.look, needs_gemini=True)
    )
    return main


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
    # Before the command and after it; here only what is said counts, or it would undo the former.
    _environment(command, argparse.SUPPRESS)
    return command


def _environment(command: argparse.ArgumentParser, default: Path | str) -> None:
    group = command.add_mutually_exclusive_group()
    group.add_argument(
        "--env-file", metavar="PATH", default=default, help="read settings from this file instead of .env"
    )
    group.add_argument(
        "--no-env-file", dest="env_file", action="store_const", const=None, help="read no file",
        default=argparse.SUPPRESS,
    )  # fmt: skip


def _gate(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    _json(actions.add_parser("show", help="show rates, what was learned, caps and pause"))
    change = actions.add_parser("set", help="set a model's rate, or the caps for all models")
    change.add_argument("--model", metavar="NAME", help="the model (default: GEMINI_MODEL_NAME)")
    change.add_argument("--rate", metavar="N", type=whole(1, 100_000), help="images per minute")
    change.add_argument("--burst", metavar="N", type=whole(1, 1000), help="how many may start at once")
    for name, kind, told in (
        ("--images-per-day", cap, "daily cap, or `none`"),
        ("--dollars-per-day", cap, "daily cap, or `none`"),
        ("--user-images-queued", cap, "images that one user may have waiting, or `none`"),
        ("--user-images-per-day", cap, "images that one user may order a day, or `none`"),
        ("--user-dollars-per-day", cap, "the same in dollars, or `none`"),
        ("--max-runs", whole(1, 1000), "runs at the same time"),
        ("--max-age-hours", whole(1, 8760), "age at which a waiting job fails"),
    ):
        change.add_argument(name, metavar="N", type=kind, default=argparse.SUPPRESS, help=told)
    change.add_argument(
        "--allow-anonymous", choices=("yes", "no"), help="whether Supabase's anonymous users may order"
    )
    change.add_argument("--new-model", action="store_true", help="the model may be one that is not known yet")
    remove = actions.add_parser("remove", help="remove the gate of a model that nobody uses any more")
    remove.add_argument("model", metavar="MODEL", help="the model's name")
    pause = actions.add_parser("pause", help="start nothing until `gate resume`")
    pause.add_argument("reason", metavar="REASON", nargs="?", help="shown to whoever looks")
    actions.add_parser("resume", help="end a pause and every block")


def _show(command: argparse.ArgumentParser) -> None:
    command.add_argument("id", metavar="BATCH|JOB", help="a batch's id, or a job's")
    _json(command)


def _models(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    _json(actions.add_parser("list", help="show prices, announced ends, successors"))
    change = actions.add_parser("set", help="correct one of them; every worker goes by it from then on")
    _json(change)
    change.add_argument("model", metavar="MODEL", help="the model's full name")
    for name, metavar, kind, told in (
        ("--dollars", "N", cap, "what an image of 1K costs, or `none`"),
        ("--ends", "DATE", text_or_none, "announced end, like 2027-03-15, or `none`"),
        ("--successor", "NAME", text_or_none, "the model that takes its place, or `none`"),
    ):
        change.add_argument(name, metavar=metavar, type=kind, default=argparse.SUPPRESS, help=told)
    change.add_argument("--source", metavar="TEXT", help="where that was read")
    change.add_argument("--available", action="store_true", help="forget that Google answered 404 for it")


def _hosts(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    _json(actions.add_parser("list", help="show the hosts that https:// photos may come from"))
    for name, told in (("add", "let photos come from a host"), ("remove", "take a host out again")):
        change = actions.add_parser(name, help=told)
        _json(change)
        change.add_argument("host", metavar="HOST", help="a name, `*.example.com` for all below it, or `*`")


def text_or_none(text: str) -> str | None:
    """A text, or `none`."""
    return None if text.lower() == "none" else text


def cap(text: str) -> float | None:
    """A daily cap: a number from 0, or `none`."""
    if text.lower() == "none":
        return None
    value = _float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 0, or none, not {text}")
    return value


def _tick(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-jobs", metavar="N", type=whole(1, MAX_JOBS), help="claim at most N jobs (default: MAX_JOBS)"
    )
    command.add_argument(
        "--budget-seconds",
        metavar="S",
        type=number(1, 3600),
        help="take at most S seconds (default: the timeout)",
    )
    command.add_argument("--dry-run", action="store_true", help="claim nothing; show what a run would claim")


def _drain(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--patience",
        metavar="SECONDS",
        type=number(0, 3600),
        default=PATIENCE_SECONDS,
        help=f"wait so long for what is due later (default: {PATIENCE_SECONDS:g})",
    )


def _enqueue(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE.json", help="the order; - reads stdin")
    command.add_argument(
        "--idempotency-key", metavar="KEY", help="makes sending the same order twice harmless"
    )


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one line of JSON instead of text")


def _status(command: argparse.ArgumentParser) -> None:
    _json(command)
    command.add_argument("--watch", action="store_true", help="show them again and again, until Ctrl-C")
    command.add_argument(
        "--every-seconds", metavar="S", type=number(0.1, 3600), default=2.0, help="how often (default: 2)"
    )


def _check(command: argparse.ArgumentParser) -> None:
    _json(command)
    command.add_argument("--project", metavar="PROJECT", help="also look at the service deployed in it")
    command.add_argument("--region", metavar="REGION", help="where the service runs")
    command.add_argument(
        "--service",
        metavar="NAME",
        help="its name (default: generation-worker), or projects/P/locations/L/services/S for all three",
    )


def _release(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--older-than-seconds", metavar="S", type=number(0, 10**9), default=300.0,
        help="how old a lock must be (default: 300)",
    )  # fmt: skip


def _retry(command: argparse.ArgumentParser) -> None:
    command.add_argument("--batch", metavar="BATCH", help="of this batch only (default: of all)")
    command.add_argument("--including-refused", action="store_true", help="also what Gemini refused")
    command.add_argument(
        "--limit", metavar="N", type=whole(1, 100_000), default=1000, help="at most N jobs (default: 1000)"
    )


def _sweep(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--limit", metavar="N", type=whole(1, 100_000), help="at most N jobs' folders (default: 500)"
    )


def _prune(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--older-than-days", metavar="D", type=whole(1, 36_500), default=30,
        help="how long ago it must have ended (default: 30)",
    )  # fmt: skip
    command.add_argument(
        "--limit", metavar="N", type=whole(1, 100_000), default=1000, help="about N of each (default: 1000)"
    )


def whole(least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number within bounds."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"a whole number from {least} to {most} is needed")
        return int(text)

    return read


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def number(least: float, most: float) -> Callable[[str], float]:
    """Reads a number within bounds; NaN is within none."""

    def read(text: str) -> float:
        value = _float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"a number from {least:g} to {most:g} is needed")
        return value

    return read
