"""A `gcloud` to put on PATH: its project is one file; it refuses what Google would, and records calls.

Run as a program by the wrapper that tests/support/cloud.py writes; knows what bootstrap.sh and
cloudbuild.yaml need. Any other command succeeds and says nothing: whether there is such a command,
test_gcloud.py asks gcloud. It is started some hundred times: importing json, pathlib and typing would take
most of its time.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NAMES = "value(name.basename())"
MEMBERS = "value(bindings.role,bindings.members)"
OPEN = {"allUsers", "allAuthenticatedUsers"}
TRUSTING = "OIDC_CHECKED_BY=cloud-run"


class Refused(Exception):
    """An error that gcloud would print to stderr, with exit code 1."""


class Call:
    """A command line taken apart: the words before the first flag and between flags, and the flags."""

    def __init__(self, argv: list[str]) -> None:
        self.words = [word for word in argv if not word.startswith("--")]
        given = [word[2:].partition("=") for word in argv if word.startswith("--")]
        self.flags = {name: value for name, _, value in given}

    def shown(self, expected: str, lines: list[str]) -> str:
        """The lines, if they are requested in the one supported format."""
        if self.flags.get("format") != expected:
            raise SystemExit(f"the stand-in speaks {expected}, not {self.flags.get('format')}")
        return "".join(f"{line}\n" for line in lines)


if TYPE_CHECKING:
    Handler = Callable[["Cloud", list[str], Call], str | None]


class Cloud:
    """The project; `state` is all there is of it."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state
        self.doors: list[list[Any]] = []

    def answer(self, call: Call) -> str:
        """Carry a command out and return its output. Raises Refused."""
        line = " ".join(call.words)
        for words in self.state["failing"]:
            if line.startswith(words):
                raise Refused(f"{words} fails here")
        known = [words for words in HANDLERS if line == words or line.startswith(f"{words} ")]
        if not known:
            return ""
        command = max(known, key=len)
        return HANDLERS[command](self, call.words[len(command.split()) :], call) or ""

    def look_at_doors(self) -> None:
        """Remember of each service whether everybody gets in now, and whether it believes any token."""
        for name, service in self.state["services"].items():
            is_open = not service["checked"] or bool(OPEN & set(service["invokers"]))
            self.doors.append([name, is_open, service["trusting"]])


def _listing(expected: str, of: str) -> Handler:
    """A command that shows all names the state has `of` something."""
    return lambda cloud, _arguments, call: call.shown(expected, list(cloud.state[of]))


def _enable(cloud: Cloud, arguments: list[str], _call: Call) -> None:
    cloud.state["apis"] += arguments


def _create_account(cloud: Cloud, arguments: list[str], call: Call) -> None:
    email = f"{arguments[0]}@{call.flags['project']}.iam.gserviceaccount.com"
    if email in cloud.state["accounts"]:
        raise Refused("ALREADY_EXISTS")
    cloud.state["accounts"].append(email)


def _rights(cloud: Cloud, arguments: list[str], call: Call) -> str:
    assert call.flags["flatten"] == "bindings[].members"
    return call.shown(MEMBERS, cloud.state["rights"].get(arguments[0], []))


def _grant(cloud: Cloud, arguments: list[str], call: Call) -> None:
    if call.flags["member"].removeprefix("serviceAccount:") not in cloud.state["accounts"]:
        raise Refused("INVALID_ARGUMENT: the account does not exist")
    if cloud.state["shy"]:
        cloud.state["shy"] -= 1
        raise Refused("INVALID_ARGUMENT: the account does not exist yet")
    right = f"{call.flags['role']}\t{call.flags['member']}"
    cloud.state["rights"].setdefault(arguments[0], []).append(right)


def _create_repository(cloud: Cloud, arguments: list[str], _call: Call) -> None:
    if arguments[0] in cloud.state["repositories"]:
        raise Refused("ALREADY_EXISTS")
    cloud.state["repositories"].append(arguments[0])


def _create_secret(cloud: Cloud, arguments: list[str], _call: Call) -> None:
    if arguments[0] in cloud.state["secrets"]:
        raise Refused("ALREADY_EXISTS")
    cloud.state["secrets"][arguments[0]] = []


def _versions(cloud: Cloud, arguments: list[str], call: Call) -> str:
    versions = cloud.state["secrets"][arguments[0]]
    return call.shown(NAMES, [str(number) for number, _ in enumerate(versions, 1)][-1:])


def _add_version(cloud: Cloud, arguments: list[str], _call: Call) -> None:
    cloud.state["secrets"][arguments[0]].append(sys.stdin.read())


def _describe(cloud: Cloud, arguments: list[str], call: Call) -> str:
    assert arguments[0] in cloud.state["services"]
    return call.shown("value(status.url)", [f"https://{arguments[0]}-1.run.app"])


def _move_door(service: dict[str, Any], call: Call) -> None:
    if "invoker-iam-check" in call.flags or "no-invoker-iam-check" in call.flags:
        service["checked"] = "invoker-iam-check" in call.flags
    if "allow-unauthenticated" in call.flags:
        service["invokers"].append("allUsers")
    if "no-allow-unauthenticated" in call.flags:
        service["invokers"] = [who for who in service["invokers"] if who != "allUsers"]


def _create_bucket(cloud: Cloud, arguments: list[str], call: Call) -> None:
    if arguments[0] in cloud.state["buckets"]:
        raise Refused("HTTPError 409: you already own this bucket")
    assert "uniform-bucket-level-access" in call.flags and "public-access-prevention" in call.flags
    cloud.state["buckets"].append(arguments[0].removeprefix("gs://"))


def _check_secrets(state: dict[str, Any], call: Call) -> None:
    """Refuse, as Cloud Run does, a secret that is not there, empty, or closed to the service's account."""
    right = f"roles/secretmanager.secretAccessor\tserviceAccount:{call.flags['service-account']}"
    for pair in call.flags["set-secrets"].split(","):
        secret = pair.partition("=")[2].partition(":")[0]
        if not state["secrets"].get(secret) or right not in state["rights"].get(secret, []):
            raise Refused(f"secret {secret} was not found, or the account may not read it")


def _check_build(state: dict[str, Any], account: str) -> None:
    """Refuse a build as an account that may not make images, or that the deploying one may not use."""
    project = account.partition("@")[2].partition(".")[0]
    deployer = f"serviceAccount:generation-build@{project}.iam.gserviceaccount.com"
    may = f"roles/run.builder\tserviceAccount:{account}" in state["rights"].get(project, [])
    if not may or f"roles/iam.serviceAccountUser\t{deployer}" not in state["rights"].get(account, []):
        raise Refused(f"PERMISSION_DENIED: {account} may not build, or may not be used")


def _deploy(cloud: Cloud, arguments: list[str], call: Call) -> None:
    """As gcloud does it: the door moves first, then the new revision answers, if traffic follows."""
    _check_secrets(cloud.state, call)
    _check_build(cloud.state, call.flags["build-service-account"].rpartition("/")[2])
    fresh = {"checked": True, "invokers": [], "trusting": False, "latest": False, "pinned": False}
    service = cloud.state["services"].setdefault(arguments[0], fresh)
    _move_door(service, call)
    cloud.look_at_doors()
    service["latest"] = TRUSTING in call.flags["set-env-vars"]
    if not service["pinned"]:
        service["trusting"] = service["latest"]


def _deploy_job(cloud: Cloud, _arguments: list[str], call: Call) -> None:
    _check_secrets(cloud.state, call)
    if not os.path.isfile(f"{call.flags['source']}/Procfile"):  # noqa: PTH113
        raise Refused("the buildpack finds nothing to start")


def _update(cloud: Cloud, arguments: list[str], call: Call) -> None:
    if arguments[0] not in cloud.state["services"]:
        raise Refused("NOT_FOUND")
    _move_door(cloud.state["services"][arguments[0]], call)


def _set_policy(cloud: Cloud, arguments: list[str], _call: Call) -> None:
    import json

    with open(arguments[1]) as file:  # noqa: PTH123
        policy = json.load(file)
    members = [member for binding in policy["bindings"] for member in binding["members"]]
    assert {binding["role"] for binding in policy["bindings"]} == {"roles/run.invoker"}
    cloud.state["services"][arguments[0]]["invokers"] = members


def _traffic(cloud: Cloud, arguments: list[str], call: Call) -> None:
    service = cloud.state["services"][arguments[0]]
    service["pinned"] = "to-latest" not in call.flags
    if not service["pinned"]:
        service["trusting"] = service["latest"]


def _save_job(there: bool) -> Handler:
    def save(cloud: Cloud, arguments: list[str], call: Call) -> None:
        if (arguments[0] in cloud.state["jobs"]) != there:
            raise Refused("NOT_FOUND" if there else "ALREADY_EXISTS")
        cloud.state["jobs"][arguments[0]] = call.flags

    return save


def _delete_job(cloud: Cloud, arguments: list[str], _call: Call) -> None:
    if cloud.state["jobs"].pop(arguments[0], None) is None:
        raise Refused("NOT_FOUND")


HANDLERS: dict[str, Handler] = {
    "auth list": _listing("value(account)", "signedIn"),
    "billing projects describe": _listing("value(billingEnabled)", "billing"),
    "services list": _listing("value(config.name)", "apis"),
    "services enable": _enable,
    "iam service-accounts list": _listing("value(email)", "accounts"),
    "iam service-accounts create": _create_account,
    "iam service-accounts get-iam-policy": _rights,
    "iam service-accounts add-iam-policy-binding": _grant,
    "projects get-iam-policy": _rights,
    "projects add-iam-policy-binding": _grant,
    "secrets get-iam-policy": _rights,
    "secrets add-iam-policy-binding": _grant,
    "artifacts repositories list": _listing(NAMES, "repositories"),
    "artifacts repositories create": _create_repository,
    "secrets list": _listing(NAMES, "secrets"),
    "secrets create": _create_secret,
    "secrets versions list": _versions,
    "secrets versions add": _add_version,
    "storage buckets list": _listing("value(name)", "buckets"),
    "storage buckets create": _create_bucket,
    "storage buckets get-iam-policy": _rights,
    "storage buckets add-iam-policy-binding": _grant,
    "run services list": _listing("value(metadata.name)", "services"),
    "run services describe": _describe,
    "run services update": _update,
    "run services set-iam-policy": _set_policy,
    "run services update-traffic": _traffic,
    "run deploy": _deploy,
    "run jobs deploy": _deploy_job,
    "run jobs add-iam-policy-binding": _grant,
    "scheduler jobs list": _listing(NAMES, "jobs"),
    "scheduler jobs create http": _save_job(False),
    "scheduler jobs update http": _save_job(True),
    "scheduler jobs delete": _delete_job,
}


def main() -> int:
    """Answer one command; the state file has the project before and after, and the calls."""
    path = os.environ["GCLOUD_STAND_IN"]
    with open(path, "rb") as file:  # noqa: PTH123
        state = marshal.load(file)
    argv = sys.argv[1:]
    cloud = Cloud(state)
    code = 0
    try:
        sys.stdout.write(cloud.answer(Call(argv)))
    except Refused as refusal:
        print(f"ERROR: {refusal}", file=sys.stderr)
        code = 1
    cloud.look_at_doors()
    state["calls"].append({"argv": argv, "doors": cloud.doors, "code": code})
    with open(path, "wb") as file:  # noqa: PTH123
        marshal.dump(state, file)
    return code
