"""Values that many tests need: a job with every field filled in."""

from __future__ import annotations

from typing import Any

from worker.jobs import Job


def a_job(**changes: Any) -> Job:
    """A job of two images that has been claimed for the first time."""
    fields: dict[str, Any] = {
        "id": 1,
        "batch_id": "b",
        "user_id": "u",
        "user_folder": "u",
        "fence": "w/r/c",
        "attempt": 1,
        "max_attempts": 5,
        "example_image_url": "https://example.com/a.jpg",
        "example_image_prompt": None,
        "training_image_urls": ("training-photos/u/me.jpg",),
        "base_prompt": "A portrait by the sea.",
        "aspect_ratio": "1:1",
        "num_images": 2,
        "missing": (0, 1),
    }
    return Job(**{**fields, **changes})
