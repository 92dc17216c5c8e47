"""An image that Gemini sent: whole, or cut on its way."""

from __future__ import annotations

import io

import pytest
from google.genai import types
from PIL import Image

from worker.errors import Transient
from worker.gemini.answer import read_answer

KINDS = ("PNG", "JPEG", "WEBP")


def image(kind: str) -> bytes:
    """A picture with some content, so that a cut one has a whole header."""
    out = io.BytesIO()
    Image.effect_noise((256, 256), 80).convert("RGB").save(out, kind)
    return out.getvalue()


def answer(data: bytes, kind: str | None) -> types.GenerateContentResponse:
    """Gemini's answer with one image."""
    blob = types.Blob(data=data, mime_type=f"image/{kind.lower()}" if kind else None)
    content = types.Content(parts=[types.Part(inline_data=blob)])
    return types.GenerateContentResponse(
        candidates=[types.Candidate(content=content, finish_reason=types.FinishReason.STOP)]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_image_is_taken_with_whatever_follows_it(kind: str) -> None:
    for data in (image(kind), image(kind) + b"more"):
        assert read_answer(answer(data, kind), "model", 1).data == data


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_image_is_asked_for_again(kind: str) -> None:
    with pytest.raises(Transient) as caught:
        read_answer(answer(image(kind)[:-200], kind), "model", 1)
    assert caught.value.code == "malformed_answer"


def test_an_image_without_a_type_is_an_image() -> None:
    """The image has been paid for, and its bytes show its type."""
    assert read_answer(answer(image("PNG"), None), "model", 1).mime_type == "image/png"


@pytest.mark.parametrize("made_by", ["gemini-x-image", "models/gemini-x-image", "gemini-x-image-001"])
def test_a_model_may_be_asked_by_its_full_name(made_by: str) -> None:
    """GEMINI_MODEL_NAME=models/… is answered by that model, not by another one."""
    made = answer(image("PNG"), "PNG")
    made.model_version = made_by
    assert read_answer(made, "models/gemini-x-image", 1).usage.model == "models/gemini-x-image"
