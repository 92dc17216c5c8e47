"""A claimed job, its source photos and its generated images. Plain values without behavior."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Style:
    """The app's style options; an empty value means "do not change"."""

    glasses: str | None = None
    hair_color: str | None = None
    hair_style: str | None = None
    backgrounds: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One example image, from which `num_images` images are made; `missing` are the indexes still to make.

    `user_folder` is the user's folder in every bucket. `fence` is the claim's `lockedBy`; every settle sends
    it. `claimed_before` means that an earlier claim may have stored objects without recording them.
    """

    id: int
    batch_id: str
    user_id: str
    user_folder: str
    fence: str
    attempt: int
    max_attempts: int
    example_image_url: str
    example_image_prompt: str | None
    training_image_urls: tuple[str, ...]
    base_prompt: str
    aspect_ratio: str
    num_images: int
    missing: tuple[int, ...]
    claimed_before: bool = False
    crashes: int = 0
    style: Style = field(default_factory=Style)

    @property
    def folder(self) -> str:
        """The folder of this job's objects in the bucket: `{user}/{batch}/{job}`."""
        return f"{self.user_folder}/{self.batch_id}/{self.id}"

    @property
    def photo_references(self) -> tuple[str, ...]:
        """The photos sent with each request: the example first, then the training photos."""
        return (self.example_image_url, *self.training_image_urls)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], fence: str) -> Job:
        """Read a job from the JSON of `claim_generation_jobs`."""
        return cls(
            id=int(row["id"]),
            batch_id=row["batchId"],
            user_id=row["userId"],
            user_folder=row["userFolder"],
            fence=fence,
            attempt=row["attempts"],
            max_attempts=row["maxAttempts"],
            example_image_url=row["exampleImageUrl"],
            example_image_prompt=row["exampleImagePrompt"],
            training_image_urls=tuple(row["trainingImageUrls"]),
            base_prompt=row["basePrompt"],
            aspect_ratio=row["aspectRatio"],
            num_images=row["numImagesPerExample"],
            missing=tuple(row["missing"]),
            claimed_before=row["claimedBefore"],
            crashes=row["crashes"],
            style=Style(
                glasses=row["glasses"],
                hair_color=row["hairColor"],
                hair_style=row["hairStyle"],
                backgrounds=tuple(row["backgrounds"]),
                styles=tuple(row["styles"]),
            ),
        )


@dataclass(frozen=True, slots=True)
class Photo:
    """A source photo as it is sent to Gemini, in URL-safe base64: encoded once for all its requests.

    `original_bytes` is the size of the file it was made from, `cpu_seconds` the processor time that took.
    """

    encoded: bytes = field(repr=False)
    mime_type: str
    original_bytes: int = field(default=0, compare=False)
    cpu_seconds: float = field(default=0.0, compare=False)

    @classmethod
    def of(cls, data: bytes, mime_type: str) -> Self:
        """The photo with these bytes."""
        return cls(urlsafe_b64encode(data), mime_type)

    @property
    def data(self) -> bytes:
        """The bytes of the photo."""
        return urlsafe_b64decode(self.encoded)

    @property
    def size(self) -> int:
        """The number of bytes of `data`."""
        return len(self.encoded) // 4 * 3 - self.encoded[-2:].count(b"=")


@dataclass(frozen=True, slots=True)
class Usage:
    """Model, tokens (thinking tokens count as output) and duration of one image."""

    model: str
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    generation_ms: int | None = None


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One image from Gemini; width and height in pixels, read from the bytes.

    `extra_images` counts further images in the same answer; they are billed and discarded.
    """

    data: bytes = field(repr=False)
    mime_type: str
    width: int
    height: int
    usage: Usage
    extra_images: int = 0
