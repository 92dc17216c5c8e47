"""One request of the Gemini adapter, with contents that must not appear in any error."""

from __future__ import annotations

import pytest

from worker.errors import GenerationError
from worker.gemini.client import Gemini, GenerationRequest
from worker.jobs import Photo

KEY = "AIza-canary-key"
PROMPT = "canary prompt"
PHOTO = Photo.of(b"canary photo \xfb\xef\xbe", "image/png")
REQUEST = GenerationRequest("gemini-2.5-flash-image", PROMPT, (PHOTO,), "9:16")


async def failure(gemini: Gemini) -> GenerationError:
    """The error of one request."""
    with pytest.raises(GenerationError) as caught:
        await gemini.generate(REQUEST, 5)
    return caught.value
