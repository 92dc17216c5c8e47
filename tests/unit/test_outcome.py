"""From images to the job: the rule that decides, for every mixture of outcomes."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from worker.errors import (
    NOT_ANSWERED,
    QUOTA_USED_UP,
    BadInput,
    GenerationError,
    Misconfigured,
    ModelRetired,
    PhotoDelayed,
    QueueRefused,
    QueueUnavailable,
    QuotaFacts,
    RateLimited,
    Transient,
)
from worker.run.outcome import ImageOutcome, ImageResult, JobOutcome, NotStartedReason, decide


def erred(error: GenerationError, sent: bool = True, paid: bool = False) -> ImageOutcome:
    """An image that failed, by default after its request was sent."""
    return ImageOutcome("erred", error, sent=sent, paid=paid)


REFUSED = ImageOutcome("refused", sent=True)
TRANSIENT = erred(Transient("timeout", "late", 7.0))
LIMITED = erred(RateLimited("quota", "wait", QuotaFacts("minute", 30.0)))
DAILY = erred(RateLimited("quota", "wait", QuotaFacts("day", 5.0)))
IMPOSSIBLE = erred(BadInput("photo_missing", "gone"), sent=False)
WRONG_KEY = erred(Misconfigured("key_invalid", "bad key"))
NOT_STARTED = ImageOutcome("notStarted", reason="budget")
CUT = ImageOutcome("cut", sent=True)
GONE = ImageOutcome("discarded", sent=True, job_final=True)
MADE = ImageOutcome("made", sent=True)
ADOPTED = ImageOutcome("adopted")
RELEASED = "The run ended before this job started; the next run will pick it up."

errors = st.sampled_from(
    [
        BadInput("a", "b"),
        Transient("a", "b"),
        RateLimited("a", "b", QuotaFacts("unknown")),
        Misconfigured("a", "b"),
        ModelRetired("a", "b", "m"),
        QueueUnavailable("a", "b"),
        QueueRefused("a", "b", 400),
        GenerationError("a", "b"),
    ]
)
reasons = st.sampled_from(get_args(NotStartedReason))
outcomes = st.one_of(
    st.sampled_from([MADE, ADOPTED, REFUSED]),
    st.builds(ImageOutcome, st.just("discarded"), sent=st.just(True), job_final=st.booleans()),
    st.builds(erred, errors, st.booleans(), st.booleans()),
    st.builds(ImageOutcome, st.just("cut"), sent=st.just(True), attempt_spent=st.booleans()),
    st.builds(ImageOutcome, st.just("notStarted"), reason=reasons),
)


def test_made_and_refused_is_complete() -> None:
    """A refused image is recorded as such and never requested again."""
    assert decide([MADE, REFUSED]) == JobOutcome("completed")
    assert decide([]) == JobOutcome("completed")


def test_the_order_of_precedence() -> None:
    """Ended before misconfigured before impossible before quota before retry before cut and not started."""
    chain: list[ImageOutcome] = [GONE, WRONG_KEY, IMPOSSIBLE, LIMITED, TRANSIENT, CUT, NOT_STARTED, MADE]
    expected = [
        ("abandoned", None),
        ("released", "key_invalid"),
        ("failed", "photo_missing"),
        ("rate_limited", "rate_limited"),
        ("retry", "timeout"),
        ("released", "cut"),
        ("released", "budget"),
        ("completed", None),
    ]
    for place, end in enumerate(expected):
        outcome = decide(chain[place:])
        assert (outcome.result, outcome.code) == end, chain[place:]


def test_a_quota_spends_nothing_and_keeps_the_longest_delay() -> None:
    """Several 429s in one job: wait for the last of them; a daily quota goes until its reset."""
    longer = erred(RateLimited("q", "wait", QuotaFacts("minute", 40.0)))
    assert decide([LIMITED, longer]) == JobOutcome(
        "rate_limited", "rate_limited", QUOTA_USED_UP, 40.0, attempt_spent=False
    )
    daily = decide([LIMITED, DAILY])
    assert (daily.result, daily.until_daily_reset) == ("rate_limited", True)


def test_a_retry_keeps_the_servers_delay() -> None:
    """The server's own delay survives as the lower bound of the durable retry."""
    assert decide([TRANSIENT, MADE]) == JobOutcome("retry", "timeout", "late", 7.0)


def test_what_was_paid_for_and_not_kept_spends_the_attempt() -> None:
    """Whatever refused the image, and whatever else happened to the job."""
    for error in (Misconfigured("bucket_missing", "no"), QueueUnavailable("timeout", "no")):
        unkept = erred(error, paid=True)
        for other in (MADE, NOT_STARTED, WRONG_KEY, LIMITED, DAILY, TRANSIENT):
            outcome = decide([other, unkept])
            assert outcome.result in ("released", "retry") and outcome.attempt_spent, (error, other)


def test_a_supabase_that_is_away_spends_nothing() -> None:
    """A job that failed only because of Supabase keeps its attempt, unless a request to Gemini was sent."""
    away = erred(QueueUnavailable("timeout", "no answer"), sent=False)
    assert decide([away, NOT_STARTED]) == JobOutcome("retry", "timeout", NOT_ANSWERED, attempt_spent=False)
    for other in (MADE, TRANSIENT, erred(Transient("photo_timeout", "late"), sent=False)):
        outcome = decide([away, other])
        assert (outcome.result, outcome.attempt_spent) == ("retry", True), other


def test_a_photo_that_other_users_delayed_spends_nothing() -> None:
    """Otherwise users with silent photo hosts could make other users' jobs fail."""
    delayed = erred(PhotoDelayed("photo_host_unavailable", "not resolved"), sent=False)
    assert decide([delayed]) == JobOutcome(
        "retry", "photo_host_unavailable", "not resolved", attempt_spent=False
    )
    outcome = decide([delayed, TRANSIENT])
    assert (outcome.result, outcome.attempt_spent) == ("retry", True)


def test_an_attempt_is_given_back_only_if_nothing_was_sent() -> None:
    """A job of which one image was requested has used its attempt, even if the rest was not started."""
    assert decide([NOT_STARTED]) == JobOutcome("released", "budget", RELEASED, attempt_spent=False)
    for other, spent in ((MADE, True), (REFUSED, True), (ADOPTED, False)):
        outcome = decide([NOT_STARTED, other])
        assert (outcome.result, outcome.attempt_spent) == ("released", spent), other


def test_photos_that_were_not_ready_cost_a_turn_and_no_attempt() -> None:
    """A retry waits for its user's next turn; a job that is released would be the first one again."""
    late = ImageOutcome("notStarted", reason="photos_not_ready")
    for other in (late, ADOPTED):
        outcome = decide([other, late])
        assert (outcome.result, outcome.attempt_spent) == ("retry", False), other


def test_what_the_runs_end_cuts_spends_nothing() -> None:
    """Whatever else was made or not started; but it does in a run that is too short for a request."""
    for other in (MADE, NOT_STARTED, REFUSED, CUT):
        outcome = decide([other, CUT])
        assert (outcome.result, outcome.attempt_spent) == ("released", False), other
    too_short = decide([CUT, ImageOutcome("cut", sent=True, attempt_spent=True)])
    assert (too_short.result, too_short.attempt_spent) == ("released", True)


@given(st.lists(outcomes, max_size=10))
def test_every_mixture_is_decided(mixture: list[ImageOutcome]) -> None:
    """The rule is total, and `completed` means that no image is missing."""
    done: set[ImageResult] = {"made", "adopted", "refused", "discarded"}
    if decide(mixture) == JobOutcome("completed"):
        assert {image.result for image in mixture} <= done
