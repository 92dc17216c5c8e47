"""The meaning of an answer without an image, for every reason that the SDK knows."""

from __future__ import annotations

import pytest
from google.genai import types

from worker.errors import Misconfigured, Refused, Transient
from worker.gemini.finish_reasons import BLOCK_REASONS, FINISH_REASONS, Verdict, blocked, without_image

KIND: dict[Verdict, type[Exception]] = {
    "refused": Refused,
    "retry": Transient,
    "misconfigured": Misconfigured,
}


def test_the_tables_know_every_reason_of_the_sdk() -> None:
    """A reason that a new SDK brings must be given its meaning here, and one that it drops must go."""
    assert set(FINISH_REASONS) == set(types.FinishReason.__members__)
    assert set(BLOCK_REASONS) == set(types.BlockedReason.__members__)


@pytest.mark.parametrize("reason", FINISH_REASONS)
def test_a_finish_reason_becomes_its_verdict(reason: str) -> None:
    """The reason decides what the caller does, and the message contains Google's word for it."""
    error = without_image(reason)
    assert type(error) is KIND[FINISH_REASONS[reason][0]]
    assert f"({reason})" in error.message
    assert error.code == (
        reason.lower() if reason not in ("STOP", "FINISH_REASON_UNSPECIFIED") else "no_image"
    )


@pytest.mark.parametrize("reason", BLOCK_REASONS)
def test_a_block_reason_becomes_its_verdict(reason: str) -> None:
    """A blocked prompt is a refusal if a reason is given."""
    error = blocked(reason)
    assert type(error) is KIND[BLOCK_REASONS[reason][0]]
    assert f"({reason})" in error.message
    assert error.code.startswith("blocked_")


def test_a_blocked_prompt_is_refused() -> None:
    """Only a block without any reason is worth another try."""
    verdicts = {reason: verdict for reason, (verdict, _) in BLOCK_REASONS.items()}
    assert verdicts.pop("BLOCKED_REASON_UNSPECIFIED") == "retry"
    assert set(verdicts.values()) == {"refused"}


@pytest.mark.parametrize("reason", ["BRAND_NEW", "what the prompt said", "", None])
def test_an_unknown_reason_is_worth_another_try(reason: str | None) -> None:
    """A reason of tomorrow is retried, within bounds, and shown only if it looks like a constant."""
    error = without_image(reason)
    assert isinstance(error, Transient)
    assert error.code == "no_image"
    assert "what the prompt said" not in error.message
    assert isinstance(blocked(reason or "NEW"), Transient)
    assert blocked(reason or "NEW").code == "blocked_unknown"
