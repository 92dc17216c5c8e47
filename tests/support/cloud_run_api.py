"""The answers of Cloud Run's admin API about a service deployed with gcloud's flags, through `responses`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.auth.credentials import AnonymousCredentials

from tests.support.cloud_build import workspace

SERVICE = "projects/my-photos/locations/us-central1/services/generation-worker"
ANONYMOUS = AnonymousCredentials()  # type: ignore[no-untyped-call]
START = ["run", "deploy", "generation-worker"]
ADDRESS = f"https://run.googleapis.com/v2/{SERVICE}"


def deployed_by_the_build(folder: Path, clock: str) -> dict[str, Any]:
    """The service as cloudbuild.yaml deploys it, its shell run for real."""
    done = workspace(folder).deploy({"_CLOCK": clock})
    assert done[-1].code == 0, done[-1].out
    commands = [argv for step in done for argv in step.commands]
    (argv,) = [argv for argv in commands if argv[:3] == START]
    flags = {name: value for name, _, value in (word[2:].partition("=") for word in argv[3:])}
    opened = any("--no-invoker-iam-check" in each for each in commands if "generation-worker" in each)
    return service(flags, opened)


def service(flags: dict[str, str], opened: bool) -> dict[str, Any]:
    """The resource that these flags of `gcloud run deploy` make."""
    plain = [pair.partition("=") for pair in flags["set-env-vars"].removeprefix("^;^").split(";")]
    secret = [pair.partition("=") for pair in flags["set-secrets"].split(",")]
    labels = dict(pair.split("=") for pair in flags["labels"].split(","))
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, _, value in plain]
    for name, _, reference in secret:
        key, _, version = reference.partition(":")
        source = {"secretKeyRef": {"secret": key, "version": version}}
        env.append({"name": name, "valueSource": source})
    limits = {"cpu": flags["cpu"], "memory": flags["memory"]}
    return {
        "name": SERVICE,
        "labels": labels,
        "invokerIamDisabled": opened,
        "customAudiences": [flags["set-custom-audiences"]],
        "template": {
            "timeout": f"{flags['timeout']}s",
            "maxInstanceRequestConcurrency": int(flags["concurrency"]),
            "scaling": {"maxInstanceCount": int(flags["max-instances"])},
            "containers": [{"ports": [{"containerPort": 8080}], "env": env, "resources": {"limits": limits}}],
        },
    }
