"""`python -m worker`: reads arguments and settings, runs a command, prints errors, returns the exit code."""

from __future__ import annotations

import asyncio
import os
import shlex
import stat
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import dotenv

from worker import log
from worker.app import Worker, default_worker_id
from worker.cli.arguments import DEFAULT_ENV_FILE, parser
from worker.cli.commands import FAILED, USAGE_ERROR, UsageError, complain, report
from worker.common.isolation import hide_memory
from worker.errors import Misconfigured, QueueRefused, QueueUnavailable
from worker.ops.check import settings_findings
from worker.ops.check_variables import misspelled_findings
from worker.settings import InvalidSettings, Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. Raises SystemExit if argparse refuses the arguments."""
    hide_memory()
    options = read_arguments(sys.argv[1:] if arguments is None else arguments)
    return asyncio.run(run_command(options))


def read_arguments(arguments: Sequence[str]) -> Namespace:
    """Parse the arguments. Raises SystemExit if argparse refuses them."""
    if not arguments:
        parser().print_help(sys.stderr)
        raise SystemExit(USAGE_ERROR)  # an error, so that a script notices that nothing was done
    return parser().parse_args(arguments)


async def run_command(options: Namespace) -> int:
    """Read the settings, run the command and print its errors; returns the exit code."""
    try:
        read_env_file(options.env_file)
        settings = read_settings(options)
        warn_of_readers(options.env_file)
        return await _execute(options, settings)
    except InvalidSettings as invalid:
        return _settings_unusable(options, invalid)
    except UsageError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return USAGE_ERROR
    except (QueueRefused, QueueUnavailable, Misconfigured) as error:
        complain(error)
        return FAILED
    except BrokenPipeError:
        # The reader of stdout has closed it (`| head`). Redirect it, so that the flush at exit does not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except ModuleNotFoundError:
        raise  # worker/__main__.py says how to install the module
    except Exception:  # noqa: BLE001 - the command's boundary: the log masks secrets in tracebacks
        log.event("command_failed", level="error", exc_info=True)
        return FAILED


async def _execute(options: Namespace, settings: Settings) -> int:
    worker = Worker(settings)
    try:
        code: int = await options.handler(worker, options)
        return code
    finally:
        await worker.close()


def read_env_file(path: str | Path | None) -> None:
    """Set the variables of a .env that are not exported, without replacing `${…}`.

    The default `.env` may be missing. Raises UsageError if a given file cannot be read.
    """
    if path is None or (path is DEFAULT_ENV_FILE and not DEFAULT_ENV_FILE.exists()):
        return
    try:
        # utf-8-sig, since editors on Windows may write a byte order mark.
        with Path(path).open(encoding="utf-8-sig") as stream:
            values = dotenv.dotenv_values(stream=stream, interpolate=False)
        for name, value in values.items():
            if value is not None:
                os.environ.setdefault(name, value)
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # not UTF-8, or a NUL
        raise UsageError(f"{path} is not a text file in UTF-8") from exc


def warn_of_readers(path: str | Path | None) -> None:
    """Log a warning if users other than the owner may read the .env file, which contains keys."""
    if path is None or os.name != "posix" or not Path(path).exists():
        return
    mode = stat.S_IMODE(Path(path).stat().st_mode)
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        fix = f"chmod 600 {shlex.quote(str(path))}"
        log.event("env_file_open", level="warning", path=str(path), mode=f"{mode:04o}", fix=fix)


def read_settings(options: Namespace) -> Settings:
    """Set up the log and read the settings. Raises InvalidSettings with all problems."""
    log.set_up(os.environ)
    gemini = options.needs_gemini and not getattr(options, "dry_run", False)
    return Settings.from_env(os.environ, default_worker_id(), gemini=gemini)


def _settings_unusable(options: Namespace, invalid: InvalidSettings) -> int:
    if options.command == "check":
        report([*settings_findings(invalid), *misspelled_findings(os.environ)], options.json)
        return USAGE_ERROR
    lines = [f"  {problem}" for problem in invalid.problems]
    text = "\n".join(["error: these settings are invalid:", *lines])
    sys.stderr.write(f"{text}\nhint: set them in the environment or in .env; see docs/settings.md\n")
    return USAGE_ERROR
