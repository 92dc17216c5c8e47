"""What the SDK sends, and how the adapter reads answers that the simulator does not give."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import google.genai._api_client
import pytest
from PIL import Image

from tests.support.gemini_wire import KEY, PHOTO, PROMPT, REQUEST, failure
from tests.support.wire import Script, Wire, reply, reset
from worker.errors import Misconfigured, RateLimited, Refused, Transient
from worker.gemini.client import Gemini


def picture(size: int = 8) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size)).save(out, "PNG")
    return out.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def part(size: int = 8, **more: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": "image/png", "data": encoded(picture(size))}, **more}


def answer(*parts: Any, **candidate: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": parts}, **candidate}]}


@pytest.fixture(autouse=True)
def _answers_with_an_image(raw_google: Wire) -> None:
    raw_google.answer = reply("200 OK", answer(part()))


async def test_the_request_as_it_goes_out(raw_google: Wire, adapter: Gemini) -> None:
    """One JSON with prompt, photos inline and image settings; the key in its header and nowhere else."""
    await adapter.generate(REQUEST, 2.5)
    (asked,) = raw_google.asked
    assert asked.line == "POST /v1/models/gemini-2.5-flash-image:generateContent HTTP/1.1"
    assert asked.headers["x-goog-api-key"] == KEY
    assert KEY.encode() not in asked.body
    sent = json.loads(asked.body)
    (content,) = sent["contents"]
    data = base64.urlsafe_b64encode(PHOTO.data).decode()
    assert content["parts"] == [{"text": PROMPT}, {"inlineData": {"data": data, "mime_type": "image/png"}}]
    assert sent["generationConfig"] == {
        "responseModalities": ["IMAGE"],
        "imageConfig": {"aspectRatio": "9:16"},
    }


async def test_the_sdk_counts_its_timeout_in_milliseconds(raw_google: Wire, adapter: Gemini) -> None:
    """The SDK sends its timeout in seconds, rounded up: 2.5 s must not become 2 500 s."""
    await adapter.generate(REQUEST, 2.5)
    assert raw_google.asked[0].headers["x-server-timeout"] == "3"


async def test_no_variable_changes_key_or_backend(
    raw_google: Wire, adapter: Gemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, projects and Vertex switches in the environment belong to other programs."""
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION"):
        monkeypatch.setenv(name, "another")
    for name in ("GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("GOOGLE_VERTEX_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GOOGLE_GENAI_HTTP_CLIENT", "httpx2")
    await adapter.generate(REQUEST, 5)
    assert raw_google.asked[0].headers["x-goog-api-key"] == KEY
    assert raw_google.asked[0].line.startswith("POST /v1/models/")


@pytest.mark.parametrize("has_aiohttp", [False, True])
@pytest.mark.parametrize("script", [reply("503 Service Unavailable", {}), reset], ids=["503", "reset"])
async def test_the_sdk_never_repeats_a_call(
    raw_google: Wire, adapter: Gemini, script: Script, has_aiohttp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call is one request, also where aiohttp is installed, which the SDK would prefer and repeat."""
    monkeypatch.setattr(google.genai._api_client, "has_aiohttp", has_aiohttp)
    raw_google.answer = script
    assert isinstance(await failure(adapter), Transient)
    assert len(raw_google.asked) == 1


async def test_the_sdk_follows_no_continuation(raw_google: Wire, adapter: Gemini) -> None:
    """An answer that could be continued is one answer: the next hop would be billed and have no slot."""
    raw_google.answer = reply(
        "200 OK", answer({"text": "…"}, finishReason="CONTINUATION", continuationToken="AAAA")
    )
    assert (await failure(adapter)).code == "continuation"
    assert len(raw_google.asked) == 1


@pytest.mark.parametrize("reason", ["SAFETY", "MAX_TOKENS", "NO_IMAGE", "OTHER"])
async def test_an_image_counts_whatever_the_finish_reason(
    raw_google: Wire, adapter: Gemini, reason: str
) -> None:
    """The image has been paid for."""
    raw_google.answer = reply("200 OK", answer({"text": "here it is"}, part(9), finishReason=reason))
    assert (await adapter.generate(REQUEST, 5)).width == 9


@pytest.mark.parametrize(
    ("parts", "width"),
    [
        ([part(4, thought=True), part(5)], 5),
        ([part(5), part(4, thought=True)], 5),
        ([part(4), part(5), part(6)], 6),
        ([part(4), {"text": "better:"}, part(6), {"text": "done"}], 6),
        ([part(4, thought=True), part(7, thought=True)], 7),
    ],
)
@pytest.mark.parametrize("reason", [None, "STOP", "MAX_TOKENS", "OTHER"])
async def test_the_last_image_is_the_result(
    raw_google: Wire, adapter: Gemini, parts: list[dict[str, Any]], width: int, reason: str | None
) -> None:
    """Earlier images of thinking models are drafts; if all are flagged as thoughts, the last one counts."""
    raw_google.answer = reply("200 OK", answer(*parts, **({"finishReason": reason} if reason else {})))
    assert (await adapter.generate(REQUEST, 5)).width == width


@pytest.mark.parametrize("reason", ["SAFETY", "IMAGE_PROHIBITED_CONTENT", "RECITATION"])
async def test_a_refused_images_draft_is_not_delivered(
    raw_google: Wire, adapter: Gemini, reason: str
) -> None:
    """A draft that Gemini then declined to finish is refused, not delivered."""
    raw_google.answer = reply("200 OK", answer(part(4, thought=True), finishReason=reason))
    assert isinstance(await failure(adapter), Refused)


async def test_a_draft_of_a_blocked_prompt_is_not_delivered(raw_google: Wire, adapter: Gemini) -> None:
    """A blocked prompt makes no image, whatever the answer contains."""
    raw_google.answer = reply(
        "200 OK", answer(part(4, thought=True)) | {"promptFeedback": {"blockReason": "SAFETY"}}
    )
    assert (await failure(adapter)).code == "blocked_safety"


async def test_a_limited_account_delivers_no_draft(raw_google: Wire, adapter: Gemini) -> None:
    """An account that Gemini does not serve stops the run, whatever the answer contains."""
    raw_google.answer = reply("200 OK", answer(part(4, thought=True), finishReason="PUP_LIMITED_DISABLED"))
    assert isinstance(await failure(adapter), Misconfigured)


@pytest.mark.parametrize(
    ("counts", "tokens"),
    [
        ({"candidatesTokenCount": 1120, "thoughtsTokenCount": 300}, 1420),
        ({"thoughtsTokenCount": 300}, 300),
        ({"candidatesTokenCount": 1120}, 1120),
        ({}, None),
    ],
)
async def test_thinking_counts_as_output(
    raw_google: Wire, adapter: Gemini, counts: dict[str, int], tokens: int | None
) -> None:
    """Tokens spent on thinking are billed as output, so they are recorded as output."""
    raw_google.answer = reply("200 OK", answer(part()) | {"usageMetadata": counts})
    assert (await adapter.generate(REQUEST, 5)).usage.output_tokens == tokens


@pytest.mark.parametrize("count", [-5, 10**12])
async def test_counts_that_cannot_be_are_unknown(raw_google: Wire, adapter: Gemini, count: int) -> None:
    """An invalid token count must not lose an image that is paid for."""
    wrong = {"promptTokenCount": count, "candidatesTokenCount": count, "thoughtsTokenCount": 7}
    raw_google.answer = reply("200 OK", answer(part()) | {"usageMetadata": wrong})
    usage = (await adapter.generate(REQUEST, 5)).usage
    assert (usage.prompt_tokens, usage.output_tokens) == (None, 7)


@pytest.mark.parametrize(
    ("version", "model"),
    [
        ("gemini-2.5-flash-image", "gemini-2.5-flash-image"),
        ("models/gemini-2.5-flash-image", "gemini-2.5-flash-image"),
        ("gemini-2.5-flash-image-001", "gemini-2.5-flash-image"),
        ("gemini-2.5-flash-image-preview", "gemini-2.5-flash-image"),
        ("models/gemini-2.5-flash-image-preview-09-2025", "gemini-2.5-flash-image"),
        ("gemini-2.5-flash-image-latest", "gemini-2.5-flash-image"),
        ("", "gemini-2.5-flash-image"),
        (None, "gemini-2.5-flash-image"),
        ("no name, but a text", "gemini-2.5-flash-image"),
        ("gemini-2.5-flash", "gemini-2.5-flash"),
        ("gemini-2.5-flash-image-lite", "gemini-2.5-flash-image-lite"),
        ("models/gemini-nano-banana-2.1", "gemini-nano-banana-2.1"),
        ("gemini-3-pro-image-001", "gemini-3-pro-image-001"),
    ],
)
async def test_the_model_that_answers_is_recorded(
    raw_google: Wire, adapter: Gemini, version: str | None, model: str
) -> None:
    """An image is its maker's; a release of the model that was asked, or no name at all, is that model."""
    raw_google.answer = reply("200 OK", answer(part()) | {"modelVersion": version})
    assert (await adapter.generate(REQUEST, 5)).usage.model == model


UNREADABLE = [
    b"<html>",
    b'{"candidates"',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    1,
    {"candidates": [1]},
    {"candidates": [{"content": {"parts": 1}}]},
    {"candidates": [{"finishReason": 5}]},
    {"usageMetadata": {"promptTokenCount": "x"}},
    *(
        answer({"inlineData": {"mimeType": "image/png", "data": data}})
        for data in ("!", encoded(b"no image"))
    ),
    answer({"inlineData": {"mimeType": "image/png", "data": encoded(picture()[:-12])}}),
]


async def test_an_answer_that_cannot_be_read_is_worth_another_try(raw_google: Wire, adapter: Gemini) -> None:
    """A 200 that the API does not promise is transient, whatever the SDK raises."""
    for body in UNREADABLE:
        raw_google.answer = reply("200 OK", body)
        error = await failure(adapter)
        assert isinstance(error, Transient), body
        assert error.code == "malformed_answer"


async def test_an_answer_with_nothing_in_it_has_no_image(raw_google: Wire, adapter: Gemini) -> None:
    """If the SDK parses an answer as empty, it has no image."""
    nothing: list[object] = [b"", [], "text", None, {}]
    for body in nothing:
        raw_google.answer = reply("200 OK", body)
        assert (await failure(adapter)).code == "no_image", body


async def test_the_retry_after_header_is_heard(raw_google: Wire, adapter: Gemini) -> None:
    """The header comes through where the body has no `RetryInfo`."""
    raw_google.answer = reply("503 Service Unavailable", b"<html>", Retry_After="17")
    error = await failure(adapter)
    assert isinstance(error, Transient)
    assert error.retry_after_seconds == 17.0
    raw_google.answer = reply("429 Too Many Requests", {}, Retry_After="18")
    limited = await failure(adapter)
    assert isinstance(limited, RateLimited)
    assert limited.facts.retry_after_seconds == 18.0
