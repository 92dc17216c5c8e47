"""What a run makes of Gemini's answers: which image of several is delivered, and who made it."""

import pytest

from local.simulator.answers import TOKENS_PER_DRAFT, TOKENS_PER_IMAGE
from tests.runs import Site

pytest_plugins = ("tests.runs",)

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
    """An image that Gemini declined after drafting it fails for good, and its draft reaches nobody."""
    site.gemini.add_rule({"kind": "image", "flagged": "all", "finish": "IMAGE_SAFETY"}, times=None)
    (job,) = await site.order("a")

    summary = await site.run()

    assert (site.job(job)["status"], site.job(job)["errorCode"]) == ("failed", "image_safety")
    assert (len(site.calls()), site.objects()) == (1, {})
    site.audit(summary, lost=1)
