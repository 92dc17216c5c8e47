"""Reads a generateContent request: the prompt, the photos and the ordered aspect ratio."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from local.simulator.photos import MAX_BODY_BYTES, Blob
from local.simulator.pictures import SIZES


class InvalidOrder(ValueError):
    """The request is not one that the real API takes; answered with 400 INVALID_ARGUMENT."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a request, with its inline photos."""

    prompt: str
    blobs: tuple[Blob, ...] = field(repr=False)
    aspect_ratio: str
    wants_image: bool

    @property
    def photo(self) -> str | None:
        """The first photo as base64."""
        return self.blobs[0][1] if self.blobs else None

    @property
    def photos(self) -> int:
        """How many photos came."""
        return len(self.blobs)


def _get(value: dict[str, Any], camel: str, snake: str) -> Any:
    """Protobuf's JSON takes both spellings."""
    return value.get(camel, value.get(snake))


def _photos(parts: list[dict[str, Any]]) -> tuple[Blob, ...]:
    for part in parts:
        by_url = _get(part, "fileData", "file_data")
        if by_url and str(_get(by_url, "mimeType", "mime_type")) in ("image/heic", "image/heif"):
            raise InvalidOrder("Unsupported MIME type for a file by URL: HEIC and HEIF are taken inline")
    found = [_get(part, "inlineData", "inline_data") for part in parts]
    return tuple(
        (str(_get(blob, "mimeType", "mime_type")), str(blob.get("data", ""))) for blob in found if blob
    )


def _aspect_ratio(generation: dict[str, Any]) -> str:
    image = _get(generation, "imageConfig", "image_config") or {}
    ratio = str(_get(image, "aspectRatio", "aspect_ratio") or "1:1")
    if ratio not in SIZES:
        raise InvalidOrder(f"Invalid value at 'generation_config.image_config.aspect_ratio': {ratio!r}")
    return ratio


def _read(document: Any) -> Order:
    parts = [part for content in document["contents"] for part in content.get("parts", [])]
    if not parts:
        raise InvalidOrder("* GenerateContentRequest.contents: contents is not specified")
    generation = _get(document, "generationConfig", "generation_config") or {}
    modalities = _get(generation, "responseModalities", "response_modalities") or ["TEXT", "IMAGE"]
    photos = _photos(parts)
    return Order(
        prompt="\n".join(str(part["text"]) for part in parts if "text" in part),
        blobs=photos,
        aspect_ratio=_aspect_ratio(generation),
        wants_image="IMAGE" in [str(modality).upper() for modality in modalities],
    )


def read(body: bytes) -> Order:
    """Return the order in a request's JSON body; raise InvalidOrder where the API would answer 400."""
    if len(body) > MAX_BODY_BYTES:
        raise InvalidOrder(f"Request payload size exceeds the limit: {MAX_BODY_BYTES} bytes.")
    try:
        return _read(json.loads(body))
    except (KeyError, TypeError, AttributeError) as exc:
        raise InvalidOrder(f"Invalid JSON payload received: {exc!r}") from exc
    except json.JSONDecodeError as exc:
        raise InvalidOrder(f"Invalid JSON payload received. {exc}") from exc
