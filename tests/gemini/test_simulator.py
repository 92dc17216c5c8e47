"""The Gemini simulator's images, keys and models, asked by the real google-genai client over the wire."""

from __future__ import annotations

import io

import httpx
import pytest
from google.genai import errors, types
from PIL import Image, ImageStat

from local.simulator.gemini import Simulator
from local.simulator.pictures import SIZES
from tests.support.photo_files import PHOTOS, marked, saved
from tests.support.simulated import MODEL, Generate, images, photo, sdk


@pytest.mark.parametrize("ratio", SIZES)
async def test_every_ratio_gives_a_real_image_of_that_ratio(generate: Generate, ratio: str) -> None:
    """An answer has one image of the ordered ratio, STOP, and 1290 output tokens."""
    answer = await generate(ratio=ratio)
    width, height = Image.open(io.BytesIO(images(answer)[0])).size
    ordered_width, ordered_height = SIZES[ratio]
    assert width / height == pytest.approx(ordered_width / ordered_height, rel=0.02)
    assert answer.candidates is not None
    assert answer.candidates[0].finish_reason is types.FinishReason.STOP
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.candidates_token_count == 1290
    assert (answer.usage_metadata.prompt_token_count or 0) > 258
    assert answer.model_version == MODEL
    assert answer.response_id


@pytest.mark.parametrize(("mime_type", "kind"), [("image/png", "PNG"), ("image/jpeg", "JPEG")])
async def test_full_scale_is_geminis_own_size(
    gemini: Simulator, generate: Generate, mime_type: str, kind: str
) -> None:
    """At scale 1 an image has exactly the pixels of Google's table, in the format that was set."""
    gemini.configure(scale=1.0, mime_type=mime_type)
    image = Image.open(io.BytesIO(images(await generate(ratio="3:4"))[0]))
    assert (image.size, image.format) == ((864, 1184), kind)


async def test_the_picture_is_made_from_the_first_photo(generate: Generate) -> None:
    """The picture shows the first photo, cropped from its middle and restyled."""
    for _ in range(4):
        answer = await generate(photos=(photo(), photo("white", "black")))
        picture = Image.open(io.BytesIO(images(answer)[0])).convert("L")
        width, height = picture.size
        left = ImageStat.Stat(picture.crop((0, 0, width // 3, height // 2))).mean[0]
        right = ImageStat.Stat(picture.crop((width * 2 // 3, 0, width, height // 2))).mean[0]
        assert left + 50 < right


async def test_pictures_vary_and_repeat(gemini: Simulator, generate: Generate) -> None:
    """Images of one prompt all differ, and the same order draws the same bytes again after a reset."""
    first = [images(await generate())[0] for _ in range(4)]
    assert len(set(first)) == 4
    gemini.reset()
    assert [images(await generate())[0] for _ in range(4)] == first


async def test_an_order_without_a_photo_gets_a_picture_too(generate: Generate) -> None:
    """No photo is no error: the model draws from the words."""
    assert len(images(await generate(photos=()))) == 1


async def test_both_api_versions_are_served(
    gemini: Simulator, generate: Generate, wire: httpx.AsyncClient
) -> None:
    """v1 and v1beta answer alike."""
    for version in ("v1", "v1beta"):
        assert images(await generate(client=sdk(wire, gemini.url, api_version=version)))


async def test_a_broken_photo_or_ratio_is_an_invalid_argument(generate: Generate) -> None:
    """The real API refuses them with 400 too."""
    for order in ({"photos": (b"not an image",)}, {"ratio": "7:5"}):
        with pytest.raises(errors.ClientError) as caught:
            await generate(**order)
        assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        ("image/jpeg", PHOTOS["cmyk.jpg"][0](), "Unable to process input image"),
        ("image/png", PHOTOS["moving.png"][0](), "Unable to process input image"),
        ("image/webp", PHOTOS["moving.webp"][0](), "Unable to process input image"),
        ("image/jpeg", saved(marked(), "JPEG")[:60], "Unable to process input image"),
        ("image/gif", PHOTOS["moving.gif"][0](), "Unsupported MIME type: image/gif"),
        ("image/avif", PHOTOS["plain.avif"][0](), "Unsupported MIME type: image/avif"),
    ],
)
async def test_photos_that_gemini_does_not_take_are_refused(
    gemini: Simulator, generate: Generate, kind: str, data: bytes, said: str
) -> None:
    """One bad photo among good ones is enough; no image is made, and none is billed."""
    with pytest.raises(errors.ClientError, match=said) as caught:
        await generate(photos=(data,), mime_type=kind)
    assert (caught.value.code, caught.value.status, gemini.paid()) == (400, "INVALID_ARGUMENT", 0)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("image/jpeg", PHOTOS["two.mpo"][0]()),
        ("image/webp", saved(marked(), "WEBP")),
        ("image/heic", PHOTOS["eight.heic"][0]()),
    ],
)
async def test_photos_of_every_type_that_gemini_takes_are_kept_as_they_came(
    gemini: Simulator, generate: Generate, kind: str, data: bytes
) -> None:
    assert images(await generate(photos=(data,), mime_type=kind))
    (call,) = gemini.ledger.calls
    assert [gemini.received.photo(sha) for sha in call.photo_shas] == [data]


@pytest.mark.parametrize(("kind", "status"), [("image/heic", 400), ("image/heif", 400), ("image/png", 200)])
async def test_a_heic_is_taken_inline_only(
    gemini: Simulator, wire: httpx.AsyncClient, kind: str, status: int
) -> None:
    """Gemini refuses one that a request names by its URL."""
    part = types.Part.from_uri(file_uri="https://photos.example.com/me", mime_type=kind)
    config = types.GenerateContentConfig(response_modalities=["IMAGE"])
    models = sdk(wire, gemini.url).aio.models
    if status == 200:
        assert images(await models.generate_content(model=MODEL, contents=part, config=config))
        return
    with pytest.raises(errors.ClientError, match="HEIC and HEIF are taken inline") as caught:
        await models.generate_content(model=MODEL, contents=part, config=config)
    assert (caught.value.code, gemini.paid()) == (400, 0)


async def test_a_request_beyond_the_limit_is_refused(gemini: Simulator, generate: Generate) -> None:
    with pytest.raises(errors.ClientError, match="payload size exceeds the limit: 100000000 bytes"):
        await generate(photos=(bytes(75_000_001),))
    assert gemini.paid() == 0


async def test_an_invalid_key_is_named_by_its_reason(gemini: Simulator, generate: Generate) -> None:
    """A key that is not valid gets 400 with ErrorInfo API_KEY_INVALID, for models.get as well."""
    gemini.configure(invalid_keys=["key-of-a-test"])
    with pytest.raises(errors.ClientError) as caught:
        await generate()
    assert caught.value.code == 400
    assert caught.value.details["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert gemini.ledger.outcomes() == {"4xx": 1}


async def test_a_missing_key_is_forbidden(gemini: Simulator, wire: httpx.AsyncClient) -> None:
    """Without x-goog-api-key everything is 403 PERMISSION_DENIED."""
    answer = await wire.get(f"{gemini.url}/v1beta/models")
    assert (answer.status_code, answer.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


async def test_a_closed_model_is_listed_and_answers_404(
    gemini: Simulator, generate: Generate, wire: httpx.AsyncClient
) -> None:
    """A model for earlier users only is found by models.get, but not by a call."""
    gemini.configure(closed=[MODEL])
    with pytest.raises(errors.ClientError) as caught:
        await generate(model=MODEL)
    assert caught.value.code == 404 and "no longer available to new users" in str(caught.value.message)
    assert (await sdk(wire, gemini.url).aio.models.get(model=MODEL)).name == f"models/{MODEL}"


async def test_a_retired_or_unknown_model_is_not_found(
    gemini: Simulator, generate: Generate, wire: httpx.AsyncClient
) -> None:
    """generateContent and models.get answer 404 NOT_FOUND; its successor still works."""
    gemini.configure(retired=[MODEL])
    for model in (MODEL, "gemini-0-never"):
        with pytest.raises(errors.ClientError) as caught:
            await generate(model=model)
        assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")
    client = sdk(wire, gemini.url)
    with pytest.raises(errors.ClientError):
        await client.aio.models.get(model=MODEL)
    found = await client.aio.models.get(model="gemini-3.1-flash-image")
    assert found.name == "models/gemini-3.1-flash-image"
    assert [model.name async for model in await client.aio.models.list()] == [
        "models/gemini-3-pro-image",
        "models/gemini-3.1-flash-image",
        "models/gemini-3.1-flash-lite-image",
        "models/gemini-nano-banana-2.1",
    ]
    assert gemini.ledger.outcomes() == {"404": 2}
