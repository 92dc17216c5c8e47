"""What `classify_429` reads from every known body of a 429."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.simulator.exhausted import NO_QUOTA, SHAPES, Exhausted, Json, Period, body
from worker.errors import Misconfigured, QuotaFacts, RateLimited
from worker.gemini.quota import classify_429

RPC = "type.googleapis.com/google.rpc."
PAID_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel"
PAID_DAY = "GenerateRequestsPerDayPerProjectPerModel"
TOKENS = "GenerateContentInputTokensPerModelPerMinute"
VERTEX_MINUTE = "GenerateContentRequestsPerMinutePerProjectPerRegion"


def exhausted(*details: Any, **more: Any) -> Json:
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": list(details), **more}}


def failure(*violations: Any) -> Json:
    return {"@type": f"{RPC}QuotaFailure", "violations": list(violations)}


def info(**metadata: str) -> Json:
    return {"@type": f"{RPC}ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED", "metadata": metadata}


def retry(delay: object) -> Json:
    return {"@type": f"{RPC}RetryInfo", "retryDelay": delay}


def facts_of(decoded: object) -> QuotaFacts:
    error = classify_429(decoded)
    assert isinstance(error, RateLimited), error
    return error.facts


MINUTE = {
    "full": QuotaFacts("minute", 47.0, 10, PAID_MINUTE),
    "several": QuotaFacts("minute", 47.0, 10, f"{PAID_MINUTE}-FreeTier"),
    "no_value": QuotaFacts("minute", 47.0, None, PAID_MINUTE),
    "fractional": QuotaFacts("minute", 47.5, 10, PAID_MINUTE),
    "no_retry_info": QuotaFacts("minute", None, 10, PAID_MINUTE),
    "help_only": QuotaFacts("day"),
    "bare": QuotaFacts("unknown"),
    "vertex": QuotaFacts("unknown"),
    "list": QuotaFacts("minute", 47.0, 10, PAID_MINUTE),
    "error_info": QuotaFacts("minute", None, 10, VERTEX_MINUTE),
}


def test_every_shape_of_the_simulator_is_covered() -> None:
    """A shape that the simulator learns must be given its meaning here."""
    assert set(MINUTE) == set(SHAPES) - NO_QUOTA


@pytest.mark.parametrize("shape", MINUTE)
def test_a_shape_gives_its_facts(shape: str) -> None:
    """Period, delay, limit and id, from any form of the body."""
    assert facts_of(body(shape, Exhausted("m"))) == MINUTE[shape]


@pytest.mark.parametrize("shape", ["full", "several", "no_value", "fractional", "list", "error_info"])
def test_the_quota_decides_the_period_and_not_the_delay(shape: str) -> None:
    """A used-up day is a day, even if `RetryInfo` names seconds and other quotas are listed too."""
    facts = facts_of(body(shape, Exhausted("m", period="day")))
    assert facts.period == "day"
    assert "PerDay" in (facts.quota_id or "")


@pytest.mark.parametrize("period", ["minute", "day"])
def test_no_quota_for_images_is_misconfigured(period: Period) -> None:
    """Free-tier quotas without a value mean zero: waiting never helps, whatever `RetryInfo` says."""
    error = classify_429(body("zero", Exhausted("m", period=period)))
    assert isinstance(error, Misconfigured)
    assert error.code == "no_image_quota"
    assert "billing" in error.message


@pytest.mark.parametrize(("shape", "what"), [("no_credit", "credit"), ("spending_cap", "spending cap")])
def test_a_bill_that_nobody_pays_is_misconfigured(shape: str, what: str) -> None:
    """Used-up credit and a reached spending cap do not come back by waiting; Google's text is not shown."""
    error = classify_429(body(shape, Exhausted("m")))
    assert isinstance(error, Misconfigured)
    assert error.code == "billing"
    assert what in error.message
    assert "ai.studio" not in str(error)


def test_a_named_quota_decides_before_the_text() -> None:
    """The text does not count then."""
    told = "Your prepayment credits are depleted. limit: 10"
    quota = {"quotaId": PAID_MINUTE, "quotaValue": "10"}
    assert facts_of(exhausted(failure(quota), message=told)).limit == 10


def test_a_text_that_only_quotes_decides_nothing() -> None:
    """A customer's prompt cannot stop everybody's runs."""
    told = "Resource has been exhausted: 'Your prepayment credits are depleted'"
    assert facts_of(exhausted(message=told)) == QuotaFacts("unknown")


def test_a_stated_zero_is_no_quota() -> None:
    """A quota stated as 0 can never be met, on a paid project too."""
    error = classify_429(exhausted(info(quota_limit=VERTEX_MINUTE, quota_limit_value="0"), retry("5s")))
    assert isinstance(error, Misconfigured)


def test_a_free_tier_quota_with_a_value_comes_back() -> None:
    """One free-tier quota with a value shows that the account has one, even if a second leaves it out."""
    stated = {"quotaId": f"{PAID_DAY}-FreeTier", "quotaValue": "200"}
    silent = {"quotaId": f"{TOKENS}-FreeTier"}
    assert facts_of(exhausted(failure(stated, silent))) == QuotaFacts("day", None, 200, stated["quotaId"])


def test_the_smallest_limit_of_the_deciding_period_counts() -> None:
    """`limit` is the tightest quota of the period that decides, not of another."""
    minutes = [
        {"quotaId": PAID_MINUTE, "quotaValue": "30"},
        {"quotaId": "ImagesPerMinute", "quotaValue": "20"},
    ]
    assert facts_of(exhausted(failure(*minutes))) == QuotaFacts("minute", None, 20, "ImagesPerMinute")
    day = {"quotaId": PAID_DAY, "quotaValue": "500"}
    assert facts_of(exhausted(failure(*minutes, day))) == QuotaFacts("day", None, 500, PAID_DAY)


def test_a_limit_in_tokens_is_not_a_limit_of_requests() -> None:
    """A token quota names the period but no rate of requests."""
    tokens = {"quotaId": TOKENS, "quotaValue": "5"}
    requests = {"quotaId": PAID_MINUTE, "quotaValue": "10"}
    assert facts_of(exhausted(failure(tokens))) == QuotaFacts("minute", None, None, TOKENS)
    assert facts_of(exhausted(failure(tokens, requests))) == QuotaFacts("minute", None, 10, PAID_MINUTE)


def test_a_quota_without_a_known_period_has_no_limit() -> None:
    """Its number would be taken for a rate per minute."""
    assert facts_of(exhausted(failure({"quotaId": "Custom", "quotaValue": "7"}))) == QuotaFacts(
        "unknown", None, None, "Custom"
    )


@pytest.mark.parametrize(
    ("value", "limit"), [("10", 10), (10, 10), (True, None), (-10, None), (1.5, None), ("ten", None)]
)
def test_a_limit_is_a_whole_number_or_its_text(value: object, limit: int | None) -> None:
    """Anything else counts as not stated."""
    assert facts_of(exhausted(failure({"quotaId": PAID_MINUTE, "quotaValue": value}))).limit == limit


def test_the_unit_names_the_period_where_the_id_does_not() -> None:
    """`ErrorInfo` may carry the period in `quota_unit` only."""
    unit = "1/d/{project}"
    assert facts_of(exhausted(info(quota_limit="custom", quota_limit_value="7", quota_unit=unit))).limit == 7
    per_minute = info(quota_limit="custom", quota_unit="1/min/{project}/{region}")
    assert facts_of(exhausted(per_minute)).period == "minute"


def test_the_older_reason_for_a_day() -> None:
    """`errors[].reason` of the older form identifies a daily quota."""
    assert facts_of({"error": {"code": 429, "errors": [{"reason": "dailyLimitExceeded"}]}}).period == "day"


@pytest.mark.parametrize("text", ["limit: 0", "PerDay", "quota per day exceeded", "billing", "free_tier"])
def test_the_text_decides_nothing(text: str) -> None:
    """Messages and descriptions are for people: but for two that name no quota, any text means the same."""
    decoded = exhausted(failure({"description": text, "subject": text}), message=text)
    assert facts_of(decoded) == QuotaFacts("unknown")


@pytest.mark.parametrize(
    ("delay", "seconds"), [("47s", 47.0), ("21.5s", 21.5), ("0s", 0.0), ("0.000000001s", 1e-9)]
)
def test_the_delay_is_read(delay: str, seconds: float) -> None:
    """`retryDelay` is a protobuf duration, whole or fractional."""
    assert facts_of(exhausted(retry(delay))).retry_after_seconds == seconds


def test_of_several_delays_the_longest_is_kept() -> None:
    """No request starts before Google allows it."""
    for delays in (("5s", "47s"), ("47s", "5s"), ("47s", "soon")):
        assert facts_of(exhausted(*map(retry, delays))).retry_after_seconds == 47.0


@pytest.mark.parametrize(
    "delay", ["soon", "", "-5s", "1e999s", "nans", "\u0663s", "47", 47, None, [], "9" * 400 + "s"]
)
def test_no_delay_is_read_from_anything_else(delay: object) -> None:
    """Anything but a duration is no delay, and no error."""
    assert facts_of(exhausted(retry(delay))).retry_after_seconds is None


def test_a_quota_id_is_shown_only_if_it_looks_like_one() -> None:
    """Ids go into logs, so free text in their place goes nowhere, while the period it names still counts."""
    error = classify_429(exhausted(failure({"quotaId": "PerDay of <someone's prompt>", "quotaValue": "3"})))
    assert isinstance(error, RateLimited)
    assert error.facts == QuotaFacts("day", None, 3, None)
    assert "prompt" not in str(error)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = [
    "error",
    "details",
    "@type",
    "violations",
    "quotaId",
    "quotaValue",
    "quotaMetric",
    "retryDelay",
    "reason",
]
NAMES = st.sampled_from(
    [*KEYS, "metadata", "quota_limit", "quota_limit_value", "quota_unit", "errors", "status"]
)
WORDS = st.sampled_from(
    [f"{RPC}QuotaFailure", f"{RPC}ErrorInfo", f"{RPC}RetryInfo", f"{RPC}Help", "PerDay-FreeTier", "0"]
)
JSON = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(), inner, max_size=6),
    max_leaves=25,
)
DETAILS = st.lists(
    st.fixed_dictionaries(
        {"@type": WORDS},
        optional={
            "violations": st.lists(st.dictionaries(NAMES, SCALARS | WORDS, max_size=4), max_size=3) | JSON,
            "metadata": st.dictionaries(NAMES, SCALARS | WORDS, max_size=4) | JSON,
            "retryDelay": SCALARS,
        },
    ),
    max_size=4,
)


@given(JSON | DETAILS.map(lambda details: exhausted(*details)))
def test_any_json_gives_an_answer(decoded: object) -> None:
    """The classification is total: no body raises, and every number in the answer can be used."""
    error = classify_429(decoded)
    if isinstance(error, RateLimited):
        assert error.facts.limit is None or error.facts.limit > 0
        assert error.facts.retry_after_seconds is None or 0 <= error.facts.retry_after_seconds < 1e9
    else:
        assert error.code == "no_image_quota"
