"""What happens when Google has shut the model down: runs change over by themselves, or say what to do."""

import pytest

from tests.runs import MODEL, SUCCESSOR, Site

pytest_plugins = ("tests.runs",)


async def test_default_model_retired(site: Site) -> None:
    """The run that learns of it gives everything back unspent, goes on with the successor and tells so."""
    site.gemini.configure(retired=[MODEL])
    jobs = await site.order(*"abcdef", images=2)

    summary = await site.run(JOBS_AT_A_TIME="4", IMAGES_AT_A_TIME="4")

    assert (summary["completed"], summary["model"], summary["changedOverFrom"]) == (6, SUCCESSOR, MODEL)
    assert summary["stopReason"] == "queue_empty"
    assert {row["model"] for row in site.photos()} == {SUCCESSOR}
    assert {site.job(job)["attempts"] for job in jobs} == {1}
    asked_in_vain = [call for call in site.calls() if call.outcome == "404"]
    assert 1 <= len(asked_in_vain) <= 4  # one set of calls, those under way together
    site.audit(summary)


async def test_successor_is_remembered(site: Site) -> None:
    """Later runs of whichever worker ask the successor at once, without a call in vain."""
    site.gemini.configure(retired=[MODEL])
    await site.order("a")
    first = await site.run()
    before = len(site.calls())
    await site.order("b", images=2)

    second = await site.run()

    assert [call.model for call in site.calls()[before:]] == [SUCCESSOR] * 2
    assert second["model"] == SUCCESSOR
    assert "changedOverFrom" not in second
    site.audit(first, second)


async def test_fallback_off(site: Site) -> None:
    """With GEMINI_MODEL_FALLBACK=off the run stops as misconfigured, and nothing is spent."""
    site.gemini.configure(retired=[MODEL])
    (job,) = await site.order("a")

    summary = await site.run(GEMINI_MODEL_FALLBACK="off")

    assert (summary["stopReason"], summary["model"]) == ("misconfigured", MODEL)
    assert SUCCESSOR in summary["problem"]
    assert "$0.067 instead of $0.039" in summary["problem"]
    assert (site.job(job)["status"], site.job(job)["attempts"]) == ("pending", 0)
    assert {call.model for call in site.calls()} == {MODEL}
    site.audit(summary)


async def test_fallback_off_stands_after_a_change_over(site: Site) -> None:
    """A worker with the fallback off does not follow what another worker has changed over to."""
    site.gemini.configure(retired=[MODEL])
    await site.order("a")
    first = await site.run()
    await site.order("b")

    second = await site.run(GEMINI_MODEL_FALLBACK="off")

    assert second["stopReason"] == "misconfigured"
    site.audit(first, second)


@pytest.mark.parametrize(("model", "told"), [(MODEL, SUCCESSOR), ("a-model-of-dreams", "GEMINI_MODEL_NAME")])
async def test_named_model_retired(site: Site, model: str, told: str) -> None:
    """A model the operator named is not replaced: the run is misconfigured and says what to name instead."""
    site.gemini.configure(retired=[MODEL])
    (job,) = await site.order("a", images=2)

    summary = await site.run(GEMINI_MODEL_NAME=model)

    assert summary["stopReason"] == "misconfigured"
    assert model in summary["problem"]
    assert told in summary["problem"]
    assert (site.job(job)["status"], site.job(job)["attempts"]) == ("pending", 0)
    site.audit(summary)


async def test_successor_retired_as_well(site: Site) -> None:
    """A successor that is gone too is not changed over from again: the run is misconfigured."""
    site.gemini.configure(retired=[MODEL, SUCCESSOR])
    (job,) = await site.order("a")

    summary = await site.run()

    assert (summary["stopReason"], summary["changedOverFrom"]) == ("misconfigured", MODEL)
    assert SUCCESSOR in summary["problem"]
    assert [call.model for call in site.calls()] == [MODEL, SUCCESSOR]
    assert site.job(job)["attempts"] == 0
    site.audit(summary)


async def test_fallback_named(site: Site) -> None:
    """GEMINI_MODEL_FALLBACK names another successor for the default model."""
    site.gemini.configure(retired=[MODEL])
    await site.order("a")

    summary = await site.run(GEMINI_MODEL_FALLBACK="gemini-3-pro-image")

    assert (summary["completed"], summary["model"]) == (1, "gemini-3-pro-image")
    assert [row["model"] for row in site.photos()] == ["gemini-3-pro-image"]
    site.audit(summary)
