"""gcloud's own parser, asked offline: it reads every flag before it looks for an account, and has none.

A good command therefore ends with exit code 1 and the words about no active account. Not noticed: cron
lines, regions, names, base images. Where gcloud is not installed the table of flags answers instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.gcloud_flags import complaint

NO_ACCOUNT = ("You do not currently have an active account selected.", "NoActiveAccountException")
"""What it says when it has read a command and wants to carry it out; the second is `artifacts`' way."""
OF_THIS_MACHINE = (("config", "set"), ("auth", "list"))
"""Commands that need no account: they end with 0."""
WITH_A_BROWSER = (("auth", "login"), ("auth", "application-default"))
"""Commands that would start something; only the table is asked about them."""
KILL_AFTER_SECONDS = 300


def complaints(commands: Mapping[tuple[str, ...], Path], config: Path) -> list[str]:
    """The errors that gcloud, or the table instead, finds in each command, run in its folder."""
    assert commands
    gcloud = shutil.which("gcloud")
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda argv: objection(gcloud, argv, commands[argv], config), commands)
        return [text for text in found if text]


def objection(gcloud: str | None, argv: Sequence[str], folder: Path, config: Path) -> str | None:
    """The error in a command, or None."""
    if gcloud is None or tuple(argv[:2]) in WITH_A_BROWSER:
        return complaint(argv, folder)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(config),
        "CLOUDSDK_CONFIG": str(config),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_PROJECT": "project-1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
    }
    done = subprocess.run(
        [gcloud, *argv],
        cwd=folder,
        env=environment,
        input="text",
        capture_output=True,
        text=True,
        timeout=KILL_AFTER_SECONDS,
    )
    good = done.returncode == 1 and any(words in done.stderr for words in NO_ACCOUNT)
    if good or (done.returncode == 0 and tuple(argv[:2]) in OF_THIS_MACHINE):
        return None
    return f"gcloud {' '.join(argv)}: exit {done.returncode}: {done.stderr[-600:]}"
