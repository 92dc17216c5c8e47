"""The Gemini adapter against the simulator: the real SDK over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
from PIL import Image

from local.simulator.answers import TOKENS_PER_IMAGE
from local.simulator.exhausted import NO_QUOTA, SHAPES
from local.simulator.faults import Answer
from local.simulator.gemini import Simulator
from local.simulator.pictures import SIZES
from worker.errors import (
    BadInput,
    GenerationError,
    Misconfigured,
    ModelRetired,
    PhotoUnprocessed,
    RateLimited,
    Refused,
    Transient,
)
from worker.gemini.client import Gemini, GenerationRequest
from worker.gemini.finish_reasons import BLOCK_REASONS, FINISH_REASONS, Verdict
from worker.jobs import Photo

MODEL = "gemini-2.5-flash-image"
KEY = "key-of-this-test"
SCALE = 0.1
KIND: dict[Verdict, type[GenerationError]] = {
    "refused": Refused,
    "retry": Transient,
    "misconfigured": Misconfigured,
}


@pytest.fixture
def google(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """The simulator, quick and with small pictures, where the SDK finds it."""
    simulator.reset()
    simulator.configure(latency=0, scale=SCALE)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", simulator.url)
    yield simulator
    simulator.reset()


@pytest.fixture
async def gemini(google: Simulator) -> AsyncIterator[Gemini]:
    """An adapter with a clock that advances by 250 ms at each reading."""
    ticks = count(0.0, 0.25)
    adapter = Gemini(KEY, lambda: next(ticks))
    yield adapter
    await adapter.close()


def portrait(colour: str = "teal") -> Photo:
    out = io.BytesIO()
    Image.new("RGB", (120, 90), colour).save(out, "PNG")
    return Photo.of(out.getvalue(), "image/png")


def order(*photos: Photo, aspect_ratio: str = "1:1", model: str = MODEL) -> GenerationRequest:
    return GenerationRequest(model, "as an astronaut", photos or (portrait(),), aspect_ratio)


async def failure(
    gemini: Gemini, request: GenerationRequest | None = None, seconds: float = 20
) -> GenerationError:
    with pytest.raises(GenerationError) as caught:
        await gemini.generate(request or order(), seconds)
    return caught.value


@pytest.mark.parametrize("aspect_ratio", ["1:1", "9:16", "21:9"])
async def test_an_image_comes_as_ordered(google: Simulator, gemini: Gemini, aspect_ratio: str) -> None:
    """Prompt, photos and aspect ratio go out; the image, its size as read and its cost come back."""
    made = await gemini.generate(order(portrait("teal"), portrait("gold"), aspect_ratio=aspect_ratio), 20)
    width, height = SIZES[aspect_ratio]
    assert made.mime_type == "image/png"
    assert made.width / made.height == pytest.approx(width / height, rel=0.03)
    with Image.open(io.BytesIO(made.data)) as picture:
        assert picture.size == (made.width, made.height)
    assert made.usage.model == MODEL
    assert made.usage.output_tokens == TOKENS_PER_IMAGE
    assert made.usage.prompt_tokens
    assert made.usage.generation_ms == 250
    (call,) = google.ledger.calls
    assert (call.prompt_start, call.photos, call.aspect_ratio) == ("as an astronaut", 2, aspect_ratio)
    assert google.paid() == 1


async def test_the_last_of_several_images_counts(google: Simulator, gemini: Gemini) -> None:
    """An answer with several images gives its last one, in one request."""
    google.add_rule(Answer(images=2))
    made = await gemini.generate(order(), 20)
    (call,) = google.ledger.calls
    assert (len(call.image_shas), made.extra_images) == (2, 1)
    assert hashlib.sha256(made.data).hexdigest().startswith(call.image_shas[-1])


async def test_a_jpeg_is_told_by_its_bytes(google: Simulator, gemini: Gemini) -> None:
    """The mime type is that of the bytes."""
    google.configure(mime_type="image/jpeg")
    assert (await gemini.generate(order(), 20)).mime_type == "image/jpeg"


@pytest.mark.filterwarnings("ignore:.*is not a valid FinishReason")
async def test_every_finish_reason_over_the_wire(google: Simulator, gemini: Gemini) -> None:
    """A finish reason without an image becomes its verdict, a name of tomorrow included."""
    for calls, reason in enumerate([*FINISH_REASONS, "BRAND_NEW_REASON"], 1):
        google.add_rule(Answer("finish", reason=reason))
        error = await failure(gemini)
        assert type(error) is KIND[FINISH_REASONS[reason][0] if reason in FINISH_REASONS else "retry"]
        assert reason in error.message
        assert len(google.ledger.calls) == calls


@pytest.mark.filterwarnings("ignore:.*is not a valid BlockedReason")
async def test_every_block_reason_over_the_wire(google: Simulator, gemini: Gemini) -> None:
    """A blocked prompt becomes its verdict though there are no candidates at all."""
    for reason in [*BLOCK_REASONS, "BRAND_NEW_REASON"]:
        google.add_rule(Answer("blocked", reason=reason))
        error = await failure(gemini)
        assert type(error) is KIND[BLOCK_REASONS[reason][0] if reason in BLOCK_REASONS else "retry"]
        assert reason in error.message


async def test_every_429_over_the_wire(google: Simulator, gemini: Gemini) -> None:
    """Each body of a 429 arrives through the SDK with its facts, and is not repeated."""
    for calls, shape in enumerate(sorted(set(SHAPES) - NO_QUOTA), 1):
        google.add_rule(Answer("quota", shape=shape, period="day", limit=7, retry_seconds=21))
        error = await failure(gemini)
        assert isinstance(error, RateLimited)
        assert error.facts.period == ("unknown" if shape in ("bare", "vertex") else "day"), shape
        assert len(google.ledger.calls) == calls


async def test_a_project_without_billing(google: Simulator, gemini: Gemini) -> None:
    """A quota of zero stops the run instead of letting jobs wait for ever."""
    google.configure(quotas={"*": {"requests_per_minute": 0}})
    error = await failure(gemini)
    assert isinstance(error, Misconfigured)
    assert error.code == "no_image_quota"


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (Answer("empty"), Transient, "no_image"),
        (Answer("text"), Transient, "no_image"),
        (Answer("malformed"), Transient, "malformed_answer"),
        (Answer("truncated"), Transient, "malformed_answer"),
        (Answer("html", code=502), Transient, "http_502"),
        (Answer("html", code=404), Misconfigured, "not_found"),
        (Answer("reset"), Transient, "connection"),
        (Answer("close"), Transient, "connection"),
        (Answer("error", code=400), BadInput, "invalid_argument"),
        (Answer("error", code=400, status="FAILED_PRECONDITION"), Misconfigured, "failed_precondition"),
        (Answer("photo"), PhotoUnprocessed, "photo_unprocessed"),
        (Answer("quota", shape="no_credit"), Misconfigured, "billing"),
        (Answer("quota", shape="spending_cap"), Misconfigured, "billing"),
        (Answer("quota", shape="capacity"), Transient, "model_capacity_exhausted"),
        (Answer("error", code=403), Misconfigured, "permission_denied"),
        (Answer("error", code=404), ModelRetired, "model_not_found"),
        (Answer("error", code=500), Transient, "internal"),
        (Answer("error", code=503), Transient, "unavailable"),
        (Answer("error", code=504), Transient, "deadline_exceeded"),
    ],
    ids=lambda value: f"{value.kind}-{value.shape}-{value.code}" if isinstance(value, Answer) else None,
)
async def test_a_failure_becomes_what_the_caller_does(
    google: Simulator, gemini: Gemini, answer: Answer, kind: type[GenerationError], code: str
) -> None:
    """Each way to fail is one leaf of the error tree, and costs one request: the SDK repeats none."""
    google.add_rule(answer, times=None)
    error = await failure(gemini)
    assert type(error) is kind
    assert error.code == code
    assert len(google.ledger.calls) == 1


@pytest.mark.parametrize("kind", ["hang", "drip"])
async def test_the_time_limit_is_for_the_whole_call(google: Simulator, gemini: Gemini, kind: str) -> None:
    """A trickling answer keeps each socket operation short, but is cut too."""
    google.add_rule(Answer(kind, seconds=4))  # dripping, a piece every 0.2 s
    error = await failure(gemini, seconds=0.6)
    assert isinstance(error, Transient)
    assert error.code == "timeout"
    assert google.ledger.wait(lambda ledger: ledger.outcomes().get("cut") == 1)


async def test_a_cancelled_call_ends_as_cancelled(google: Simulator, gemini: Gemini) -> None:
    """The caller's own cancellation is no failure of Gemini's, and lets go of the connection at once."""
    google.add_rule(Answer("hang"))
    call = asyncio.create_task(gemini.generate(order(), 60))
    assert await asyncio.to_thread(google.ledger.wait, lambda ledger: ledger.calls)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(google.ledger.wait, lambda ledger: ledger.outcomes().get("cut") == 1)


async def test_no_call_without_time(google: Simulator, gemini: Gemini) -> None:
    """Without time left nothing is sent, so nothing is paid."""
    assert (await failure(gemini, seconds=0)).code == "timeout"
    assert google.ledger.calls == ()


async def test_check_asks_without_cost(google: Simulator, gemini: Gemini) -> None:
    """`check` passes for a good key and model, and makes no image."""
    await gemini.check(MODEL)
    assert google.ledger.calls == ()


async def test_an_invalid_key_is_misconfigured(google: Simulator, gemini: Gemini) -> None:
    """The detail type distinguishes its 400 from that of an invalid order."""
    google.configure(invalid_keys=[KEY])
    with pytest.raises(Misconfigured) as caught:
        await gemini.check(MODEL)
    assert caught.value.code == (await failure(gemini)).code == "api_key_invalid"
    assert KEY not in str(caught.value)


async def test_a_retired_model_is_named(google: Simulator, gemini: Gemini) -> None:
    """A retired model is its own error, so that the run can change over."""
    google.configure(retired=[MODEL])
    with pytest.raises(ModelRetired) as caught:
        await gemini.check(MODEL)
    assert caught.value.model == MODEL
    assert isinstance(await failure(gemini), ModelRetired)


async def test_a_closed_adapter_opens_again(google: Simulator, gemini: Gemini) -> None:
    """`close` may come at any time and twice; a later call opens new connections."""
    await gemini.close()
    await gemini.generate(order(), 20)
    await gemini.close()
    await gemini.close()
    await gemini.generate(order(), 20)
    assert google.paid() == 2
