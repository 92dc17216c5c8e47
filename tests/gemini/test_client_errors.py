"""What the adapter's errors must not contain, and that every vendor's exception is translated."""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from typing import Any

import httpx
import httpx2
import pytest
from google.genai import errors

from tests.support.gemini_wire import KEY, PROMPT, REQUEST, failure
from tests.support.wire import Script, Wire, reply
from worker.errors import Misconfigured, ModelRetired, Transient
from worker.gemini.client import Gemini, translate, vendor_errors

ECHO = {
    "message": f"{KEY} {PROMPT}",
    "status": f"{KEY} {PROMPT}",
    "details": [{"reason": KEY, "field": PROMPT}],
}
ECHOES: list[Script] = [
    *(
        reply(f"{status} {PROMPT}", {"error": ECHO})
        for status in (302, 400, 401, 403, 404, 409, 429, 500, 503)
    ),
    *(reply(f"{status} {KEY}", f"{KEY} {PROMPT}".encode()) for status in (200, 400, 404, 429, 502)),
    reply("200 OK", {"candidates": [{"content": {"parts": [{"inlineData": f"{KEY} {PROMPT}"}]}}]}),
    reply("200 OK", {"candidates": [{"finishReason": f"{KEY} {PROMPT}"}]}),
    lambda _, writer: writer.write(f"{KEY} {PROMPT}\r\n\r\n".encode()),
]


@pytest.mark.filterwarnings("ignore:.*is not a valid FinishReason")
async def test_no_error_contains_key_or_prompt(raw_google: Wire, adapter: Gemini) -> None:
    """Even if a server echoes the whole request, no error, traceback or cause contains them."""
    for script in ECHOES:
        raw_google.answer = script
        error = await failure(adapter)
        assert error.__cause__ is None
        assert error.__context__ is None
        told = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
        assert "canary" not in told
    assert "canary" not in repr(adapter) + repr(REQUEST)


@pytest.mark.parametrize("key", ["", "  ", "canary key", "canary\nkey", "canary\u00e9", "auth_tokens/canary"])
async def test_a_key_that_cannot_travel_is_refused_unseen(raw_google: Wire, key: str) -> None:
    """A key that no header can carry is misconfigured before h11 can quote it."""
    with pytest.raises(Misconfigured) as caught:
        await Gemini(key, time.monotonic).check("m")
    assert caught.value.code in ("api_key_missing", "api_key_malformed")
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert raw_google.asked == []


@pytest.mark.parametrize("model", ["", "../other", "a?b=c", "a&b", "a b", "models/", "models/a/b"])
async def test_a_model_name_cannot_change_the_path(raw_google: Wire, adapter: Gemini, model: str) -> None:
    """Whatever is not a model's name is misconfigured, not a model to replace."""
    with pytest.raises(Misconfigured) as caught:
        await adapter.check(model)
    assert not isinstance(caught.value, ModelRetired)
    assert raw_google.asked == []


async def test_a_refused_connection_is_transient_and_an_invalid_url_misconfigured(
    adapter: Gemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages say which."""
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:1")
    refused = await failure(adapter)
    assert isinstance(refused, Transient)
    assert "ECONNREFUSED" in refused.message
    await adapter.close()
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "localhost:8080")
    assert (await failure(adapter)).code == "base_url"


TIMEOUTS = {"TimeoutException", "ConnectTimeout", "PoolTimeout", "ReadTimeout", "WriteTimeout"}
ADDRESSES = {"InvalidURL", "UnsupportedProtocol"}


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_every_exception_of_the_http_clients_is_translated(module: Any) -> None:
    """Each exception that httpx or httpx2 exports, one of tomorrow included, has a meaning."""
    classes = [
        kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(classes) > 20
    for kind in classes:
        assert issubclass(kind, vendor_errors()), kind
        code = translate(kind.__new__(kind), "m").code
        expected = "timeout" if kind.__name__ in TIMEOUTS else "connection"
        expected = "base_url" if kind.__name__ in ADDRESSES else expected
        assert code == ("malformed_answer" if kind.__name__ == "DecodingError" else expected), kind


def test_every_exception_of_the_sdk_is_translated() -> None:
    """An exception that a new SDK brings must be given its meaning here."""
    known = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    beside = {errors.ContinuationInterruptedError, errors.ExperimentalWarning}  # of Interactions; a warning
    assert beside < known
    for kind in known - beside:
        assert issubclass(kind, vendor_errors()), kind
        exc = kind(503, {}) if issubclass(kind, errors.APIError) else kind.__new__(kind)
        assert isinstance(translate(exc, "m"), Transient)


def test_importing_the_adapter_imports_no_sdk() -> None:
    """An idle run pays neither the SDK's 0.4 s nor its 40 MB."""
    code = (
        "import sys, worker.gemini.client;"
        "print([m for m in ('google.genai', 'httpx', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
