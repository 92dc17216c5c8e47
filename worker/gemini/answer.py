"""Reads an answer of `generateContent`: the resulting image, the model that made it, and its usage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from worker.errors import GenerationError, Transient
from worker.gemini.finish_reasons import blocked, without_image
from worker.jobs import GeneratedImage, Usage
from worker.photos.image_info import inspect

if TYPE_CHECKING:
    from google.genai import types

_MOST_TOKENS = 1_000_000_000  # the sum of two counts must fit into the database's integer

MODEL_NAME = re.compile(r"(models/|tunedModels/)?[A-Za-z0-9][A-Za-z0-9._-]{0,119}")

_END_MARKERS = {"image/png": b"IEND", "image/jpeg": b"\xff\xd9"}

# A release has the price and limits of its model: nothing, `-001`, `-preview`, `-preview-09-2025`, `-latest`.
_RELEASE = re.compile(r"(-(\d{3}|(preview|exp|latest)(-\d{2}-\d{2,4})?|\d{2}-\d{2,4}))?")


def read_answer(answer: types.GenerateContentResponse, asked: str, elapsed_ms: int) -> GeneratedImage:
    """Return the image of an answer of the model `asked`. Raises Refused, Transient or Misconfigured."""
    data, extra_images = _result(answer)
    try:
        info = inspect(data)
    except ValueError:
        raise Transient("malformed_answer", "Gemini sent an image that cannot be read.") from None
    if not _has_end(data, info.mime_type):
        raise Transient("malformed_answer", "Gemini sent an incomplete image.")
    tokens = answer.usage_metadata
    usage = Usage(
        model=_answering_model(asked, answer.model_version),
        prompt_tokens=_known(tokens.prompt_token_count) if tokens else None,
        output_tokens=_output_tokens(tokens) if tokens else None,
        generation_ms=elapsed_ms,
    )
    return GeneratedImage(data, info.mime_type, info.width, info.height, usage, extra_images)


def _result(answer: types.GenerateContentResponse) -> tuple[bytes, int]:
    """Return the last image not flagged as a thought, and the number of other such images.

    Thinking models send drafts first, flagged (Gemini API, "Thinking") or not (Anionex/banana-slides#105).
    If every image is flagged (Lixpi/lixpi#135), the last one is the result, unless Gemini refuses the image.
    Otherwise the finish reason is ignored.
    """
    images = list(_images(answer))
    finished = [data for data, is_thought in images if not is_thought]
    if finished:
        return finished[-1], len(finished) - 1
    failure = _no_image(answer)
    if images and isinstance(failure, Transient):
        return images[-1][0], 0
    raise failure


def _images(answer: types.GenerateContentResponse) -> Iterator[tuple[bytes, bool]]:
    """Yield each image of the answer, with whether it is flagged as a thought."""
    for candidate in answer.candidates or ():
        for part in (candidate.content.parts if candidate.content else None) or ():
            blob = part.inline_data
            if blob and blob.data and (blob.mime_type or "image/").startswith("image/"):
                yield blob.data, bool(part.thought)


def _no_image(answer: types.GenerateContentResponse) -> GenerationError:
    feedback = answer.prompt_feedback
    if feedback and feedback.block_reason:
        return blocked(feedback.block_reason.value)
    reasons = [candidate.finish_reason for candidate in answer.candidates or () if candidate.finish_reason]
    return without_image(reasons[0].value if reasons else None)


def _answering_model(asked: str, version: str | None) -> str:
    """Return the model that made the image: `asked` if the answer names a release of it, or no model."""
    name = (version or "").removeprefix("models/")
    wanted = asked.removeprefix("models/")
    is_release = name.startswith(wanted) and _RELEASE.fullmatch(name, len(wanted))
    return asked if is_release or not MODEL_NAME.fullmatch(name) else name


def _output_tokens(tokens: types.GenerateContentResponseUsageMetadata) -> int | None:
    """Return the tokens billed as output: the candidates' tokens plus the thinking tokens."""
    counts = (_known(tokens.candidates_token_count), _known(tokens.thoughts_token_count))
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _known(count: int | None) -> int | None:
    """Return a plausible count, else None, so that a bad count does not prevent recording a paid image."""
    return count if count is not None and 0 <= count <= _MOST_TOKENS else None


def _has_end(data: bytes, mime_type: str) -> bool:
    """Whether the file has its end marker; a WebP file has none, and `inspect` refuses an incomplete one.

    Data after the marker is accepted, because the image has been paid for.
    """
    return _END_MARKERS.get(mime_type, b"") in data[-65536:]
