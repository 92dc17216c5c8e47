"""Which image of several in Gemini's answer is delivered, and which model is recorded."""

import logging

import pytest

from local.simulator.answers import TOKENS_PER_DRAFT, TOKENS_PER_IMAGE
from tests.support.runs import MODEL, SUCCESSOR, Site, Summary

SHAPES: dict[str, dict[str, object]] = {
    "drafts flagged as thoughts": {"drafts": 2, "flagged": "drafts"},
    "drafts not flagged": {"drafts": 2, "flagged": "none"},
    "everything flagged": {"drafts": 1, "flagged": "all"},
    "the only image flagged": {"flagged": "all"},
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_finished_image_is_delivered_and_its_drafts_are_paid_for(site: Site, shape: str) -> None:
    """However Gemini marks its drafts, one call gives the customer the finished image; all tokens count."""
    answer = SHAPES[shape]
    site.gemini.add_rule({"kind": "image", **answer}, times=None)
    (job,) = await site.order("a", images=2)

    summary = await site.run()

    assert (summary["completed"], len(site.calls())) == (1, 2)
    finished = {sha for call in site.calls() for sha in call.image_shas}
    assert {row["storagePath"].rsplit("-", 1)[1] for row in site.photos(job)} == finished
    drafts = answer.get("drafts", 0)
    assert isinstance(drafts, int)
    tokens = TOKENS_PER_IMAGE + drafts * TOKENS_PER_DRAFT
    assert [row["outputTokens"] for row in site.photos(job)] == [tokens] * 2
    site.audit(summary)


async def test_a_draft_of_a_refused_image_is_not_delivered(site: Site) -> None:
    """An image that Gemini refused after drafting it fails permanently, and nobody gets its draft."""
    site.gemini.add_rule({"kind": "image", "flagged": "all", "finish": "IMAGE_SAFETY"}, times=None)
    (job,) = await site.order("a")

    summary = await site.run()

    assert (site.job(job)["status"], site.job(job)["errorCode"]) == ("failed", "image_safety")
    assert (len(site.calls()), site.objects()) == (1, {})
    site.audit(summary, lost=1)


def told(caplog: pytest.LogCaptureFixture) -> list[object]:
    """The warnings of a run that another model answered."""
    return [record for record in caplog.records if record.getMessage() == "model_answered_by_another"]


def dollars(site: Site) -> dict[str, tuple[int, float]]:
    """Starts and dollars of today, by model, as operators see them."""
    ((row,),) = [tuple(found.values()) for found in site.rows("select generation_gate() as gate")]
    return {
        gate["model"]: (gate["startedToday"], round(float(gate["dollarsToday"]), 6))
        for gate in row["gates"]
        if gate["startedToday"]
    }


async def test_images_count_for_the_model_that_made_them(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """If Gemini routes to another model, that one is recorded, priced and counted, logged once per run."""
    caplog.set_level(logging.INFO)
    site.gemini.configure(versions={MODEL: SUCCESSOR})
    (job,) = await site.order("a", images=3)

    summary = await site.run()

    assert (summary["model"], summary["answeredBy"]) == (MODEL, [{"model": SUCCESSOR, "images": 3}])
    assert {row["model"] for row in site.photos(job)} == {SUCCESSOR}
    assert {call.model for call in site.calls()} == {MODEL}
    (warning,) = told(caplog)
    assert (warning.model, warning.answered_by, warning.levelname) == (MODEL, SUCCESSOR, "WARNING")  # type: ignore[attr-defined]
    assert "$0.067 instead of $0.039" in warning.note  # type: ignore[attr-defined]
    assert dollars(site) == {SUCCESSOR: (3, 0.201)}
    site.audit(summary)


async def test_images_that_nobody_asked_for_are_counted(site: Site) -> None:
    """An answer with ten images costs ten: of the daily caps, and of what its user may use in a day."""
    site.gemini.add_rule({"kind": "image", "images": 10}, times=None)
    await site.order("a", images=3)

    summary: Summary = await site.run()

    assert (summary["images"]["made"], summary["extraImages"]) == (3, 27)
    assert dollars(site) == {MODEL: (30, 1.17)}
    (counted,) = site.rows('select "requestsSent" as requests from generation.flows')
    assert counted["requests"] == 30


@pytest.mark.parametrize("version", ["", f"models/{MODEL}", f"{MODEL}-001", f"{MODEL}-preview"])
async def test_a_release_of_the_model_is_the_model(
    site: Site, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    """An answer that names a release of the model that was asked, or no model, is that model's."""
    caplog.set_level(logging.INFO)
    site.gemini.configure(versions={MODEL: version})
    (job,) = await site.order("a")

    summary: Summary = await site.run()

    assert "answeredBy" not in summary
    assert [row["model"] for row in site.photos(job)] == [MODEL]
    assert told(caplog) == []
    assert dollars(site) == {MODEL: (1, 0.039)}
    site.audit(summary)
