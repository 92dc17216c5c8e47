"""No secret of the environment appears in the log, however it is spelled."""

from __future__ import annotations

import io
import json
import logging
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import log
from worker.log.mask import SECRET_VARIABLES, Mask

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1IiwiZXhwIjo0MTAyNDQ0ODAwfQ.c2lnbmVkLWJ5LXNvbWVib2R5LWVsc2U"
SHAPES = (
    JWT,
    "sb_secret_0123456789abcdef",
    "sb_publishable_0123456789",
    "AIzaSyD-0123456789_abcdefghijklmnopqrst",
)
AWKWARD = 'a "quoted" \\ 100% sécret/with=signs'


pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.mark.parametrize("name", SECRET_VARIABLES)
@pytest.mark.parametrize("value", ["canary-0123456789", AWKWARD])
def test_secrets_of_the_environment(name: str, value: str) -> None:
    """Each secret setting is masked: as it is, in JSON, in a `repr`, in a URL; what is around it stays."""
    mask = Mask({name: f" {value} "})
    for written in (value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value), quote(value, safe="")):
        assert mask(f"header {written}, done") == "header ***, done"


@pytest.mark.parametrize("secret", SHAPES)
def test_what_looks_like_a_secret(secret: str) -> None:
    """Tokens and keys that are not ours are known by their shape, also at the start of a line within JSON."""
    mask = Mask({})
    assert mask(f"Authorization: Bearer {secret} and more") == "Authorization: Bearer *** and more"
    assert mask(json.dumps(f"line\n{secret}")) == '"line\\n***"'


def test_one_secret_begins_as_another() -> None:
    """If a shorter secret is a prefix of a longer one, nothing of the longer one is left."""
    mask = Mask({"WORKER_SECRET": "canary-0123", "GEMINI_API_KEY": "canary-0123456789"})
    assert mask("canary-0123456789 canary-0123") == "*** ***"


def test_without_secrets_nothing_changes() -> None:
    """Empty or very short values mask nothing, so that the log stays readable."""
    text = "job_failed keyring.backends.chainer ab GEMINI_API_KEY is not set"
    assert Mask({"WORKER_SECRET": "ab", "GEMINI_API_KEY": ""})(text) == text


CHARACTERS = st.characters(exclude_categories=("Cs", "Zs", "Cc"), exclude_characters="*")


@given(st.text(CHARACTERS, min_size=8, max_size=60), st.text(CHARACTERS, max_size=30))
def test_no_masked_text_contains_a_secret(secret: str, around: str) -> None:
    """Whatever characters it has."""
    assert secret not in Mask({"WORKER_SECRET": secret})(f"{around}{secret}{around}")


@pytest.mark.parametrize("style", ["json", "line"])
def test_the_log_is_masked(style: str) -> None:
    """Fields, other libraries' messages and the text of an exception are masked in both kinds of log."""
    stream = io.StringIO()
    log.set_up({"LOG_FORMAT": style, "GEMINI_API_KEY": AWKWARD}, stream)
    log.event("strange", said=AWKWARD)
    logging.getLogger("some.library").warning("sent %r", {"x-goog-api-key": AWKWARD, "bearer": JWT})
    try:
        raise ValueError(f"invalid literal: {AWKWARD}")
    except ValueError:
        log.event("crashed", level="error", exc_info=True)
    text = stream.getvalue()
    assert "strange" in text and "ValueError: invalid literal: ***" in text and "x-goog-api-key" in text
    assert "quoted" not in text and JWT not in text
