"""The flags of the gcloud commands that the deployment uses, for machines without gcloud.

gcloud_flags.json has them with their source, the SDK's own table for completing command lines;
`python -m tests.support.gcloud_flags` reads them from the installed SDK.
"""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.yaml_text import read_yaml

FILE = Path(__file__).with_suffix(".json")
COMMANDS = """
artifacts repositories create; artifacts repositories list; artifacts repositories set-cleanup-policies
auth application-default login; auth list; auth login
billing accounts list; billing projects describe; billing projects link
builds list; builds log; builds submit; config set
iam service-accounts add-iam-policy-binding; iam service-accounts create
iam service-accounts get-iam-policy; iam service-accounts list
projects add-iam-policy-binding; projects create; projects delete; projects get-iam-policy
run deploy; run jobs add-iam-policy-binding; run jobs deploy
run revisions list; run services delete; run services describe; run services list
run services logs read; run services set-iam-policy; run services update; run services update-traffic
scheduler jobs create http; scheduler jobs delete; scheduler jobs describe; scheduler jobs list
scheduler jobs pause; scheduler jobs resume; scheduler jobs run; scheduler jobs update http
secrets add-iam-policy-binding; secrets create; secrets get-iam-policy; secrets list
secrets versions access; secrets versions add; secrets versions disable; secrets versions list
services enable; services list
storage buckets add-iam-policy-binding; storage buckets create; storage buckets get-iam-policy
storage buckets list
"""
USED = [command.strip() for command in COMMANDS.replace("\n", ";").split(";") if command.strip()]


def table() -> Mapping[str, Any]:
    """`source`, `everywhere` (flags of all commands), `commands`: flag to "value", "bool" or choices."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def complaint(argv: Sequence[str], folder: Path) -> str | None:
    """The error in a command's flags, or None; flags files are read in `folder`."""
    known = table()
    line = " ".join(argv)
    commands = [command for command in known["commands"] if line.startswith(f"{command} ") or line == command]
    if not commands:
        return f"the table has no such command: {line}"
    flags = known["everywhere"] | known["commands"][max(commands, key=len)]
    words = list(argv)
    for number, word in enumerate(words):
        if word.startswith("--"):
            name, given, value = word.partition("=")
            following = words[number + 1] if number + 1 < len(words) else "--"
            problem = _problem(flags, name, value if given else following, bool(given))
            if problem:
                return f"{problem}: {line}"
            if name == "--flags-file":
                words += [f"{name}={value}" for name, value in read_flags(folder / value).items()]
    return None


def read_flags(file: Path) -> dict[str, str]:
    """A file for `--flags-file`, each value as gcloud takes it."""
    return {name: str(value) for name, value in read_yaml(file.read_text()).items()}


def _problem(flags: Mapping[str, Any], name: str, value: str, given: bool) -> str | None:
    kind = flags.get(name)
    if kind is None and flags.get(name.replace("--no-", "--", 1)) == "bool":
        kind = "bool"
    if kind is None:
        return f"there is no {name}"
    if kind == "bool":
        return f"{name} takes no value" if given else None
    if value.startswith("--") or not value:
        return f"{name} needs a value"
    if isinstance(kind, list) and value.lower() not in [choice.lower() for choice in kind]:
        return f"{name} is one of {', '.join(kind)}"
    return None


def installed() -> dict[str, Any] | None:
    """The table as the installed SDK has it, None where there is none."""
    program = shutil.which("gcloud")
    sdk = Path(program).resolve().parent.parent if program else Path("/nowhere")
    source = sdk / "data" / "cli" / "gcloud_completions.py"
    if not source.exists():
        return None
    tree = ast.literal_eval(source.read_text().partition("STATIC_COMPLETION_CLI_TREE = ")[2])
    version = (sdk / "VERSION").read_text().strip()
    return {
        "source": f"Google Cloud SDK {version}, data/cli/gcloud_completions.py",
        "everywhere": tree["flags"],
        "commands": {command: _flags(tree, command) for command in USED},
    }


def _flags(tree: Mapping[str, Any], command: str) -> Mapping[str, Any]:
    for word in command.split():
        tree = tree["commands"][word]
    flags: Mapping[str, Any] = tree["flags"]
    return flags


if __name__ == "__main__":
    taken = installed()
    if taken is None:
        sys.exit("gcloud is not installed here, or without its table of completions.")
    FILE.write_text(json.dumps(taken, indent=1, sort_keys=True) + "\n")
