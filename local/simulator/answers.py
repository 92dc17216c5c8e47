"""The bodies that generateContent and models.get answer with, in the Gemini API's wire format."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]
SERVICE = "generativelanguage.googleapis.com"
TOKENS_PER_PHOTO = 258  # input tokens of one photo tile: Gemini API, "Understand and count tokens"
TOKENS_PER_IMAGE = 1290  # output tokens of one 1024-px image: Gemini API, pricing of gemini-2.5-flash-image
TOKENS_PER_DRAFT = 1120  # thinking tokens, billed as well; not part of `candidatesTokenCount`


def error(code: int, status: str, message: str, details: list[Json] | None = None) -> Json:
    """A google.rpc.Status as JSON."""
    body: Json = {"code": code, "message": message, "status": status}
    return {"error": body | ({"details": details} if details else {})}


def key_invalid() -> Json:
    """The body of the 400 for an unknown API key."""
    text = "API key not valid. Please pass a valid API key."
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": SERVICE},
    }
    localized = {
        "@type": "type.googleapis.com/google.rpc.LocalizedMessage",
        "locale": "en-US",
        "message": text,
    }
    return error(400, "INVALID_ARGUMENT", text, [info, localized])


def key_missing() -> Json:
    """The body of the 403 for a request without an API key."""
    text = "Method doesn't allow unregistered callers (callers without established identity). "
    return error(
        403,
        "PERMISSION_DENIED",
        text + "Please use API Key or other form of API consumer identity to call this API.",
    )


def model_missing(model: str, version: str, method: str) -> Json:
    """The body of the 404 for a retired or unknown model."""
    text = f"models/{model} is not found for API version {version}, or is not supported for {method}. "
    return error(
        404, "NOT_FOUND", text + "Call ListModels to see the list of available models and their methods."
    )


def model_closed(model: str) -> Json:
    """The body of the 404 for a model that serves only those who used it before."""
    return error(404, "NOT_FOUND", f"This model models/{model} is no longer available to new users.")


def model_facts(model: str) -> Json:
    """One model as models.get returns it."""
    return {
        "name": f"models/{model}",
        "version": "001",
        "displayName": model.replace("-", " ").title(),
        "inputTokenLimit": 32768,
        "outputTokenLimit": 32768,
        "supportedGenerationMethods": ["generateContent", "countTokens", "batchGenerateContent"],
    }


def _answer(model: str, prompt: str, photos: int, output_tokens: int, candidates: list[Json] | None) -> Json:
    text_tokens = max(1, len(prompt) // 4)
    prompt_tokens = text_tokens + TOKENS_PER_PHOTO * photos
    prompt_details = [{"modality": "TEXT", "tokenCount": text_tokens}]
    if photos:
        prompt_details.append({"modality": "IMAGE", "tokenCount": TOKENS_PER_PHOTO * photos})
    usage: Json = {
        "promptTokenCount": prompt_tokens,
        "totalTokenCount": prompt_tokens + output_tokens,
        "promptTokensDetails": prompt_details,
    }
    if output_tokens:
        usage["candidatesTokenCount"] = output_tokens
        usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": output_tokens}]
    body: Json = {} if candidates is None else {"candidates": candidates}
    version = {"modelVersion": model} if model else {}
    return body | {"usageMetadata": usage, **version, "responseId": uuid.uuid4().hex[:22]}


def images(
    model: str,
    prompt: str,
    photos: int,
    mime_type: str,
    encoded: Sequence[tuple[str, bool]],
    reason: str = "STOP",
    drafts: int = 0,
) -> Json:
    """An answer with base64 images in its only candidate, each with whether it is flagged `thought`.

    `model` is the one that answers, or empty to omit it. The first `drafts` images cost thinking tokens.
    """
    parts: list[Json] = [
        {"inlineData": {"mimeType": mime_type, "data": data}} | ({"thought": True} if thought else {})
        for data, thought in encoded
    ]
    candidate = {"content": {"parts": parts, "role": "model"}, "finishReason": reason, "index": 0}
    body = _answer(model, prompt, photos, TOKENS_PER_IMAGE * (len(encoded) - drafts), [candidate])
    if drafts:
        body["usageMetadata"]["thoughtsTokenCount"] = TOKENS_PER_DRAFT * drafts
        body["usageMetadata"]["totalTokenCount"] += TOKENS_PER_DRAFT * drafts
    return body


def text(model: str, prompt: str, photos: int, words: str) -> Json:
    """A good answer without an image: the model talked instead."""
    candidate = {"content": {"parts": [{"text": words}], "role": "model"}, "finishReason": "STOP", "index": 0}
    return _answer(model, prompt, photos, 0, [candidate])


def finished(model: str, prompt: str, photos: int, reason: str) -> Json:
    """A candidate without content; `reason` may be a name that no SDK knows."""
    candidate: Json = {"finishReason": reason, "index": 0}
    if reason.startswith("IMAGE_") or reason == "NO_IMAGE":
        candidate["finishMessage"] = "Unable to show the generated image. Try rephrasing the prompt."
    return _answer(model, prompt, photos, 0, [candidate])


def blocked(model: str, prompt: str, photos: int, reason: str) -> Json:
    """A prompt that was blocked: feedback, and no candidates at all."""
    return {"promptFeedback": {"blockReason": reason}} | _answer(model, prompt, photos, 0, None)


def encode(data: bytes) -> str:
    """Base64 as Google sends it: the standard alphabet, padded."""
    return base64.b64encode(data).decode()
