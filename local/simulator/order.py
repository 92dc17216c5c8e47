"""Reads a generateContent request: the prompt, the photos and the ordered aspect ratio."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from local.simulator.pictures import SIZES


class InvalidOrder(ValueError):
    """The request is not one that the real API takes; answered with 400 INVALID_ARGUMENT."""


@dataclass(frozen=True, slots=True)
class Order:
    """What was ordered; `photo` is the first inline photo as base64, `photos` how many came."""

    prompt: str
    photo: str | None = field(repr=False)
    photos: int
    aspect_ratio: str
    wants_image: bool


def _get(value: dict[str, Any], camel: str, snake: str) -> Any:
    """Protobuf's JSON takes both spellings."""
    return value.get(camel, value.get(snake))


def _photos(parts: list[dict[str, Any]]) -> list[str]:
    found = [_get(part, "inlineData", "inline_data") for part in parts]
    return [str(blob.get("data", "")) for blob in found if blob]


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
        photo=photos[0] if photos else None,
        photos=len(photos),
        aspect_ratio=_aspect_ratio(generation),
        wants_image="IMAGE" in [str(modality).upper() for modality in modalities],
    )


def read(body: bytes) -> Order:
    """Return the order in a request's JSON body; raise InvalidOrder where the API would answer 400."""
    try:
        return _read(json.loads(body))
    except (KeyError, TypeError, AttributeError) as exc:
        raise InvalidOrder(f"Invalid JSON payload received: {exc!r}") from exc
    except json.JSONDecodeError as exc:
        raise InvalidOrder(f"Invalid JSON payload received. {exc}") from exc
