"""Formats one batch or job as text. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.errors import OPERATORS_MATTER

STATES = {
    "pending": "ready for the next run",
    "rate_limited": "waiting for quota",
    "processing": "in progress",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}


def details_text(details: Mapping[str, Any]) -> str:
    """The answer of `generation_details` as text: the batch, its jobs with their attempts, and all images."""
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
        lines.append(f"  error: {job['errorMessage']} ({job['errorCode'] or 'no code'})")
        if OPERATORS_MATTER in job["errorMessage"]:  # the message has no details, since customers can read it
            lines.append("  for details see `python -m worker status` and the run's log")
    times_died = "once" if job["crashes"] == 1 else f"{job['crashes']} times"
    crashes = f", its worker died {times_died}" if job["crashes"] else ""
    lines.append(f"  attempts: {job['attempts']} of {job['maxAttempts']}{crashes}")
    times = [f"ordered {_time(job['createdAt'])}"]
    times += [f"first started {_time(job['startedAt'])}"] if job["startedAt"] else []
    times += [f"ended {_time(job['completedAt'])}"] if job["completedAt"] else []
    return [*lines, f"  {', '.join(times)}", *map(_image, job["images"])]


def _state(job: Mapping[str, Any], now: str) -> str:
    state = STATES[job["status"]]
    if job["status"] == "processing":
        dead = job["leaseExpiresAt"] <= now
        return (
            f"{state}, locked by {job['lockedBy']}"
            if not dead
            else "its worker died; the next run will pick it up"
        )
    if job["retryAt"] is None:
        return state
    if job["status"] == "pending":
        return f"waiting, next try at {_time(job['retryAt'])}"
    return f"{state}, next try at {_time(job['retryAt'])}"


def _image(image: Mapping[str, Any]) -> str:
    line = f"  image {image['index']:<3} {image['state']:<8}"
    if image["state"] == "made":
        return f"{line} {image['storagePath']}  {image['width']} × {image['height']}, {image['model']}"
    return f"{line} {image['message']} ({image['code']})" if image["state"] == "refused" else line.rstrip()


def _time(text: str) -> str:
    """A timestamp of the database (UTC), to the second."""
    return f"{text[:19].replace('T', ' ')} UTC"
