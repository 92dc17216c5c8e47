"""From images to the job: the rule that decides, for every mixture of outcomes."""

from __future__ import annotations

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
    Refused,
    Transient,
)
from worker.run.outcome import (
    Abandoned,
    Completed,
    Failed,
    ImageCut,
    ImageDiscarded,
    ImageErred,
    ImageMade,
    ImageNotStarted,
    ImageOutcome,
    PutAside,
    Released,
    Retry,
    decide,
)

REFUSED = ImageErred(0, Refused("safety", "no"), sent=True)
TRANSIENT = ImageErred(1, Transient("timeout", "late", 7.0), sent=True)
LIMITED = ImageErred(2, RateLimited("quota", "wait", QuotaFacts("minute", 30.0)), sent=True)
DAILY = ImageErred(3, RateLimited("quota", "wait", QuotaFacts("day", 5.0)), sent=True)
IMPOSSIBLE = ImageErred(4, BadInput("photo_missing", "gone"))
WRONG_KEY = ImageErred(5, Misconfigured("key_invalid", "bad key"), sent=True)
NOT_STARTED = ImageNotStarted(6, "budget")
CUT = ImageCut(9, attempt_spent=False)
GONE = ImageDiscarded(7, job_final=True)
MADE = ImageMade(8)
RELEASED = "The run ended before this job started; the next run will pick it up."

errors = st.sampled_from(
    [
        Refused("a", "b"),
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
outcomes = st.one_of(
    st.builds(ImageMade, st.integers(0, 9), st.booleans()),
    st.builds(ImageDiscarded, st.integers(0, 9), st.booleans()),
    st.builds(ImageErred, st.integers(0, 9), errors, st.booleans(), st.booleans()),
    st.builds(ImageCut, st.integers(0, 9), st.booleans()),
    st.builds(
        ImageNotStarted,
        st.integers(0, 9),
        st.sampled_from(["budget", "rate_limited", "stopped", "photos_not_ready"]),
    ),
)


def test_made_and_refused_is_complete() -> None:
    """A refused image is recorded as such and never requested again."""
    assert decide([MADE, REFUSED]) == Completed()
    assert decide([]) == Completed()


def test_the_order_of_precedence() -> None:
    """Ended before misconfigured before impossible before quota before retry before cut and not started."""
    chain: list[ImageOutcome] = [GONE, WRONG_KEY, IMPOSSIBLE, LIMITED, TRANSIENT, CUT, NOT_STARTED, MADE]
    expected = [Abandoned, Released, Failed, PutAside, Retry, Released, Released, Completed]
    for place, kind in enumerate(expected):
        assert isinstance(decide(chain[place:]), kind), chain[place:]


def test_a_quota_spends_nothing_and_keeps_the_longest_delay() -> None:
    """Several 429s in one job: wait for the last of them; a daily quota goes until its reset."""
    longer = ImageErred(2, RateLimited("q", "wait", QuotaFacts("minute", 40.0)))
    assert decide([LIMITED, longer]) == PutAside(QUOTA_USED_UP, 40.0, until_daily_reset=False)
    daily = decide([LIMITED, DAILY])
    assert isinstance(daily, PutAside)
    assert daily.until_daily_reset


def test_a_retry_keeps_the_servers_delay() -> None:
    """The server's own delay survives as the lower bound of the durable retry."""
    assert decide([TRANSIENT, MADE]) == Retry("timeout", "late", 7.0)


def test_what_was_paid_for_and_not_kept_spends_the_attempt() -> None:
    """Whatever refused the image, and whatever else happened to the job."""
    for error in (Misconfigured("bucket_missing", "no"), QueueUnavailable("timeout", "no")):
        unkept = ImageErred(0, error, sent=True, paid=True)
        for other in (MADE, NOT_STARTED, WRONG_KEY, LIMITED, DAILY, TRANSIENT):
            outcome = decide([other, unkept])
            assert isinstance(outcome, Released | Retry) and outcome.attempt_spent, (error, other)


def test_a_supabase_that_is_away_spends_nothing() -> None:
    """A job that failed only because of Supabase keeps its attempt, unless a request to Gemini was sent."""
    away = ImageErred(0, QueueUnavailable("timeout", "no answer"))
    assert decide([away, NOT_STARTED]) == Retry("timeout", NOT_ANSWERED, attempt_spent=False)
    for other in (MADE, TRANSIENT, ImageErred(1, Transient("photo_timeout", "late"))):
        outcome = decide([away, other])
        assert isinstance(outcome, Retry) and outcome.attempt_spent, other


def test_a_photo_that_other_users_delayed_spends_nothing() -> None:
    """Otherwise users with silent photo hosts could make other users' jobs fail."""
    delayed = ImageErred(0, PhotoDelayed("photo_host_unavailable", "not resolved"))
    assert decide([delayed]) == Retry("photo_host_unavailable", "not resolved", attempt_spent=False)
    outcome = decide([delayed, TRANSIENT])
    assert isinstance(outcome, Retry) and outcome.attempt_spent


def test_an_attempt_is_given_back_only_if_nothing_was_sent() -> None:
    """A job of which one image was requested has used its attempt, even if the rest was not started."""
    assert decide([NOT_STARTED]) == Released("budget", RELEASED, attempt_spent=False)
    spent = decide([NOT_STARTED, MADE])
    assert isinstance(spent, Released)
    assert spent.attempt_spent
    adopted = decide([NOT_STARTED, ImageMade(1, adopted=True)])
    assert isinstance(adopted, Released)
    assert not adopted.attempt_spent


def test_photos_that_were_not_ready_cost_a_turn_and_no_attempt() -> None:
    """A retry waits for its user's next turn; a job that is released would be the first one again."""
    late = ImageNotStarted(0, "photos_not_ready")
    for other in (late, ImageMade(1, adopted=True)):
        outcome = decide([other, late])
        assert isinstance(outcome, Retry) and not outcome.attempt_spent, other


def test_what_the_runs_end_cuts_spends_nothing() -> None:
    """Whatever else was made or not started; but it does in a run that is too short for a request."""
    for other in (MADE, NOT_STARTED, REFUSED, CUT):
        outcome = decide([other, CUT])
        assert isinstance(outcome, Released) and not outcome.attempt_spent, other
    too_short = decide([CUT, ImageCut(1, attempt_spent=True)])
    assert isinstance(too_short, Released) and too_short.attempt_spent


@given(st.lists(outcomes, max_size=10))
def test_every_mixture_is_decided(mixture: list[ImageOutcome]) -> None:
    """The rule is total, and `Completed` means that no image is missing."""
    outcome = decide(mixture)
    if outcome == Completed():
        for image in mixture:
            done = isinstance(image, ImageMade | ImageDiscarded)
            assert done or (isinstance(image, ImageErred) and isinstance(image.error, Refused))
