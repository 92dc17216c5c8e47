"""Cloud Run's admin API over REST: reads the deployed service, starts the job that drains a backlog.

The only module that uses google-cloud-run; imports it at the first call. Never shows values of variables.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud import run_v2

READ_SECONDS = 10.0
SLOW, AGAIN = "Cloud Run did not answer in time", "run the check again in a minute"
SERVICE = "generation-worker"
"""The service's name, as cloudbuild.yaml gives it."""

FULL_NAME = re.compile(r"projects/([^/\s]+)/locations/([^/\s]+)/(services|jobs)/([^/\s]+)")

T = TypeVar("T")


class CloudRunUnreadable(Exception):
    """The call to Cloud Run failed; `fix` is what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Resource:
    """A service or a job by its full name, `projects/P/locations/L/services/S`."""

    project: str
    region: str
    kind: str
    name: str

    @classmethod
    def parse(cls, text: str, kind: str) -> Resource:
        """Raises ValueError if the text is not the full name of a resource of this kind."""
        found = FULL_NAME.fullmatch(text)
        if not found or found[3] != kind:
            raise ValueError(f"must be projects/PROJECT/locations/REGION/{kind}/NAME")
        return cls(found[1], found[2], found[3], found[4])

    def __str__(self) -> str:
        return f"projects/{self.project}/locations/{self.region}/{self.kind}/{self.name}"

    @property
    def flags(self) -> str:
        """The flags of gcloud commands for this resource."""
        return f"--region={self.region} --project={self.project}"


def named_service(name: str | None, project: str | None, region: str | None) -> Resource | None:
    """The service that these options name, None without any. Raises ValueError if some are missing."""
    if name is None and project is None and region is None:
        return None
    if name is not None and "/" in name:
        if project or region:
            raise ValueError("--service is a full name; leave out --project and --region")
    elif project and region:
        name = f"projects/{project}/locations/{region}/services/{name or SERVICE}"
    else:
        raise ValueError("use --project and --region together, or --service with the full name")
    try:
        return Resource.parse(name, "services")
    except ValueError as exc:
        raise ValueError(f"--service: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Deployed:
    """A service as it is deployed; values left to Cloud Run's default are 0 or empty.

    `plain` has the variables with plain values, `from_secrets` the names of those from Secret Manager.
    """

    resource: Resource
    timeout_seconds: float
    concurrency: int
    max_instances: int
    cpu: str
    memory: str
    iam_checked: bool
    clock: str
    audiences: tuple[str, ...]
    plain: Mapping[str, str] = field(repr=False)
    from_secrets: frozenset[str]


async def read_service(
    resource: Resource, credentials: Credentials | None = None, seconds: float = READ_SECONDS
) -> Deployed:
    """The service as it is deployed now. Raises CloudRunUnreadable on an error or after `seconds`."""

    def read() -> Deployed:
        from google.cloud import run_v2

        with run_v2.ServicesClient(transport="rest", credentials=credentials) as client:
            # retry=None: by default the client retries for minutes.
            return _deployed(resource, client.get_service(name=str(resource), timeout=seconds, retry=None))

    return await _ask(resource, read, seconds)


async def start_job(
    resource: Resource, tasks: int, credentials: Credentials | None = None, seconds: float = READ_SECONDS
) -> bool:
    """Start an execution with this many tasks, unless the latest one still runs; returns whether it started.

    Raises CloudRunUnreadable. Two concurrent calls may start two executions, which the gate limits together.
    """

    def start() -> bool:
        from google.cloud import run_v2

        status = run_v2.ExecutionReference.CompletionStatus
        ended = (status.EXECUTION_SUCCEEDED, status.EXECUTION_FAILED, status.EXECUTION_CANCELLED)
        with run_v2.JobsClient(transport="rest", credentials=credentials) as client:
            latest = client.get_job(name=str(resource), timeout=seconds, retry=None).latest_created_execution
            if latest.name and latest.completion_status not in ended:
                return False
            overrides = run_v2.RunJobRequest.Overrides(task_count=tasks)
            order = run_v2.RunJobRequest(name=str(resource), overrides=overrides)
            client.run_job(request=order, timeout=seconds, retry=None)
            return True

    return await _ask(resource, start, seconds)


async def _ask(resource: Resource, ask: Callable[[], T], seconds: float) -> T:
    """Call `ask` in a thread, since it blocks, as do its imports (a quarter of a second)."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.to_thread(_translated, resource, ask)
    except TimeoutError as exc:
        raise CloudRunUnreadable(SLOW, AGAIN) from exc


def _translated(resource: Resource, ask: Callable[[], T]) -> T:
    """Call `ask`. Raises CloudRunUnreadable for all errors of requests and of Google's packages."""
    import requests
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, Unauthenticated
    from google.auth.exceptions import GoogleAuthError, TransportError

    try:
        return ask()
    except (TransportError, requests.RequestException) as exc:
        raise CloudRunUnreadable(SLOW, AGAIN) from exc
    except (GoogleAuthError, Unauthenticated) as exc:
        fix = "gcloud auth application-default login"
        raise CloudRunUnreadable("Cloud Run accepts no Google credentials of this machine", fix) from exc
    except Forbidden as exc:
        fix = (
            f"gcloud projects add-iam-policy-binding {resource.project} --role=roles/run.viewer "
            "--member=user:$(gcloud config get account) --condition=None; "
            f"if that does not help: gcloud services enable run.googleapis.com --project={resource.project}"
        )
        raise CloudRunUnreadable(f"the Google account may not access {resource}", fix) from exc
    except NotFound as exc:
        fix = f"gcloud run {resource.kind} list {resource.flags} (lists those that exist)"
        raise CloudRunUnreadable(f"{resource} does not exist", fix) from exc
    except GoogleAPIError as exc:
        code = getattr(exc, "code", None)
        raise CloudRunUnreadable(f"Cloud Run answered with an error ({code})", AGAIN) from exc


def _deployed(resource: Resource, service: run_v2.Service) -> Deployed:
    template = service.template
    containers = template.containers
    # The container that receives requests is the one with a port, or the only one.
    container = next((each for each in containers if each.ports), containers[0] if containers else None)
    env = container.env if container else ()
    limits = container.resources.limits if container else {}
    revision, whole = template.scaling.max_instance_count, service.scaling.max_instance_count
    return Deployed(
        resource=resource,
        timeout_seconds=template.timeout.total_seconds(),
        concurrency=template.max_instance_request_concurrency,
        max_instances=min((count for count in (revision, whole) if count), default=0),
        cpu=limits.get("cpu", ""),
        memory=limits.get("memory", ""),
        iam_checked=not service.invoker_iam_disabled,
        clock=service.labels.get("clock", ""),
        audiences=tuple(service.custom_audiences),
        plain={each.name: each.value for each in env if "value_source" not in each},
        from_secrets=frozenset(each.name for each in env if "value_source" in each),
    )
