"""Every fault that the Gemini simulator can answer with, as the real google-genai client sees it."""

from __future__ import annotations

import io

import httpx
import pytest
from google.genai import errors, types
from PIL import Image
from pydantic import ValidationError

from local.simulator.exhausted import SHAPES, Exhausted, body
from local.simulator.gemini import Simulator
from tests.support.simulated import MODEL, Generate, images, sdk, settled


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_429_reaches_the_caller_whole(gemini: Simulator, generate: Generate, shape: str) -> None:
    """`APIError.details` is the body of the 429, in any form; of a list, its only element."""
    gemini.add_rule({"kind": "quota", "shape": shape, "period": "day", "limit": 7, "retry_seconds": 21.25})
    with pytest.raises(errors.ClientError) as caught:
        await generate()
    sent = body(shape, Exhausted(MODEL, "day", 7, 21.25))
    assert caught.value.code == 429
    assert caught.value.details == (sent[0] if isinstance(sent, list) else sent)
    assert gemini.ledger.calls[0].detail == shape


@pytest.mark.parametrize(
    "reason", ["SAFETY", "IMAGE_PROHIBITED_CONTENT", "NO_IMAGE", "A_REASON_OF_NEXT_YEAR"]
)
@pytest.mark.filterwarnings("ignore:A_REASON_OF_NEXT_YEAR")
async def test_a_finish_reason_comes_without_an_image(
    gemini: Simulator, generate: Generate, reason: str
) -> None:
    """A declined image is a candidate with a finish reason and no content, and costs nothing."""
    gemini.add_rule({"kind": "finish", "reason": reason})
    answer = await generate()
    assert answer.candidates is not None
    assert answer.candidates[0].content is None
    assert answer.candidates[0].finish_reason is not None
    assert answer.candidates[0].finish_reason.value == reason
    assert (gemini.ledger.outcomes(), gemini.paid()) == ({"refused": 1}, 0)


async def test_a_blocked_prompt_has_no_candidates(gemini: Simulator, generate: Generate) -> None:
    """A blocked prompt says so in promptFeedback only."""
    gemini.add_rule({"kind": "blocked", "reason": "PROHIBITED_CONTENT"})
    answer = await generate()
    assert answer.candidates is None
    assert answer.prompt_feedback is not None
    assert answer.prompt_feedback.block_reason is types.BlockedReason.PROHIBITED_CONTENT


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (400, "INVALID_ARGUMENT"),
        (403, "PERMISSION_DENIED"),
        (500, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
async def test_errors_carry_googles_status(
    gemini: Simulator, generate: Generate, code: int, status: str
) -> None:
    """An injected error has the HTTP code and, by default, Google's status name for it."""
    gemini.add_rule({"kind": "error", "code": code})
    with pytest.raises(errors.APIError) as caught:
        await generate()
    assert (caught.value.code, caught.value.status) == (code, status)
    assert gemini.ledger.outcomes() == {f"{code // 100}xx": 1}


async def test_a_proxys_page_is_not_json(gemini: Simulator, generate: Generate) -> None:
    """A proxy's 502 is a ServerError whose details are the page."""
    gemini.add_rule({"kind": "html", "code": 502})
    with pytest.raises(errors.ServerError) as caught:
        await generate()
    assert caught.value.code == 502
    assert caught.value.details["message"].startswith("<html>")


async def test_answers_without_an_image(gemini: Simulator, generate: Generate) -> None:
    """An empty object and an answer in words are both 200 without an image, and cost none."""
    gemini.add_rule({"kind": "empty"})
    gemini.add_rule({"kind": "text", "text": "no"})
    empty, words = await generate(), await generate()
    assert empty.candidates is None
    assert (words.text, images(words)) == ("no", [])
    assert (gemini.ledger.outcomes(), gemini.paid()) == ({"no_image": 2}, 0)


async def test_broken_images_are_paid_for(gemini: Simulator, generate: Generate) -> None:
    """Two images in one answer cost two; an image that is not base64 or ends early costs one."""
    gemini.add_rule({"kind": "image", "images": 2})
    gemini.add_rule({"kind": "malformed"})
    gemini.add_rule({"kind": "truncated"})
    assert len(set(images(await generate()))) == 2
    with pytest.raises(ValidationError):
        await generate()
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(images(await generate())[0])).load()
    assert (gemini.ledger.outcomes(), gemini.paid()) == ({"image": 1, "malformed": 2}, 4)


@pytest.mark.parametrize(("made", "paid"), [(None, 0), (1, 1)])
async def test_a_client_that_gives_up_is_noticed(
    gemini: Simulator, generate: Generate, wire: httpx.AsyncClient, made: int | None, paid: int
) -> None:
    """A hanging call ends in the client's timeout; it is `cut`, and paid for if the image was made."""
    gemini.add_rule({"kind": "hang", "images": made})
    with pytest.raises(httpx.ReadTimeout):
        await generate(client=sdk(wire, gemini.url, timeout_seconds=0.8))
    await settled(gemini, lambda ledger: ledger.outcomes() == {"cut": 1})
    assert (gemini.paid(), gemini.ledger.paid_and_cut()) == (paid, paid)


@pytest.mark.parametrize(
    ("kind", "error"), [("reset", httpx.ReadError), ("close", httpx.RemoteProtocolError)]
)
async def test_the_simulator_can_reset_or_close_a_connection(
    gemini: Simulator, generate: Generate, kind: str, error: type[Exception]
) -> None:
    """The next call is served."""
    gemini.add_rule({"kind": kind})
    with pytest.raises(error):
        await generate()
    assert images(await generate())
    assert gemini.ledger.outcomes() == {"reset": 1, "image": 1}


async def test_a_slow_drip_outlives_the_sdks_timeout(
    gemini: Simulator, generate: Generate, wire: httpx.AsyncClient
) -> None:
    """An answer in small pieces arrives whole though it takes longer than the timeout, which is per read."""
    gemini.add_rule({"kind": "drip", "seconds": 2.4})
    assert images(await generate(client=sdk(wire, gemini.url, timeout_seconds=1.5)))


async def test_rules_are_taken_in_order_and_used_up(gemini: Simulator, generate: Generate) -> None:
    """The first rule that matches prompt and model answers, as many times as it says."""
    gemini.configure(
        rules=[
            {"match": {"prompt": "beach"}, "times": 1, "answer": {"kind": "finish", "reason": "SAFETY"}},
            {"match": {"model": "gemini-3-pro-image"}, "answer": {"kind": "blocked"}},
            {"match": {"prompt": "beach"}, "times": 1, "answer": {"kind": "text"}},
        ]
    )
    await generate("a portrait on the beach")
    await generate("a portrait on the beach", model="gemini-3-pro-image")
    for prompt in ("in the woods", "on the beach", "on the beach"):
        await generate(prompt)
    assert [call.detail for call in gemini.ledger.calls] == ["SAFETY", "SAFETY", "image", "text", "image"]
