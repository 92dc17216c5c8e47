"""A batch or a job from close by, as text for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.errors import OPERATORS_MATTER

STATES = {
    "pending": "ready: the next run takes it",
    "rate_limited": "put aside until the quota allows it",
    "processing": "being made",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}


def details_text(details: Mapping[str, Any]) -> str:
    """The answer of `generation_details`: the batch, its jobs with their attempts, and every image."""
    lines = [_batch(details["batch"])]
    for job in details["jobs"]:
        lines += ["", *_job(job, details["at"])]
    more = details["batch"]["jobsTotal"] - len(details["jobs"])
    if more > 0 and details["found"] == "batch":
        lines += ["", f"… and {more} more jobs"]
    return "\n".join(lines)


def _batch(batch: Mapping[str, Any]) -> str:
    ended = batch["jobsDone"] + batch["jobsFailed"]
    lines = [
        f"batch {batch['id']}: {batch['status']}",
        f"  ordered {_time(batch['createdAt'])} by {batch['userId']}",
        f"  images: {batch['imagesDone']} of {batch['imagesTotal']} made, {batch['imagesFailed']} failed",
        f"  jobs: {ended} of {batch['jobsTotal']} ended, {batch['jobsFailed']} of them failed",
    ]
    if batch["completedAt"]:
        lines.append(f"  ended {_time(batch['completedAt'])}")
    return "\n".join(lines)


def _job(job: Mapping[str, Any], now: str) -> list[str]:
    lines = [f"job {job['id']}: {_state(job, now)}"]
    if job["errorMessage"]:
        lines.append(f"  it says: {job['errorMessage']} ({job['errorCode'] or 'no code'})")
        if OPERATORS_MATTER in job["errorMessage"]:  # its customer reads the row too
            lines.append("  which problem: `python -m worker status` and the log of the run say it")
    crashes = f", its worker died {job['crashes']} times" if job["crashes"] else ""
    lines.append(f"  attempts: {job['attempts']} of {job['maxAttempts']}{crashes}")
    times = [f"ordered {_time(job['createdAt'])}"]
    times += [f"first started {_time(job['startedAt'])}"] if job["startedAt"] else []
    times += [f"ended {_time(job['completedAt'])}"] if job["completedAt"] else []
    return [*lines, f"  {', '.join(times)}", *map(_image, job["images"])]


def _state(job: Mapping[str, Any], now: str) -> str:
    said = STATES[job["status"]]
    if job["status"] == "processing":
        dead = job["leaseExpiresAt"] <= now
        return f"{said} by {job['lockedBy']}" if not dead else "its worker died: the next run takes it back"
    if job["retryAt"] is None:
        return said
    if job["status"] == "pending":
        return f"waits for another try at {_time(job['retryAt'])}"
    return f"{said}, tried again at {_time(job['retryAt'])}"


def _image(image: Mapping[str, Any]) -> str:
    line = f"  image {image['index']:<3} {image['state']:<8}"
    if image["state"] == "made":
        return f"{line} {image['storagePath']}  {image['width']} × {image['height']}, {image['model']}"
    return f"{line} {image['message']} ({image['code']})" if image["state"] == "refused" else line.rstrip()


def _time(text: str) -> str:
    """To the second; the database writes UTC."""
    return f"{text[:19].replace('T', ' ')} UTC"
