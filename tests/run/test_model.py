"""Google has shut the model down: runs switch to another model, or say what to do."""

import asyncio

import pytest

from local.stack.stack import project_sql
from tests.support.runs import MODEL, NEWEST, SUCCESSOR, Site

SUCCEED = 'update generation.models set "announcedSuccessor" = %s where model = %s returning model'


async def test_a_run_switches_from_a_retired_default_model(site: Site) -> None:
    """The run releases its jobs unspent, continues with the successor, and reports the switch."""
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


async def test_later_runs_use_the_successor_at_once(site: Site) -> None:
    """Without a useless request."""
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


async def test_a_fallback_set_to_off_stops_the_run_as_misconfigured(site: Site) -> None:
    """Nothing is spent."""
    site.gemini.configure(retired=[MODEL])
    (job,) = await site.order("a")

    summary = await site.run(GEMINI_MODEL_FALLBACK="off")

    assert (summary["stopReason"], summary["model"]) == ("misconfigured", MODEL)
    assert SUCCESSOR in summary["problem"]
    assert "$0.067 an image" in summary["problem"] and "$0.039 an image" in summary["problem"]
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
async def test_a_named_model_is_never_replaced(site: Site, model: str, told: str) -> None:
    """The run is misconfigured and names an available model."""
    site.gemini.configure(retired=[MODEL])
    (job,) = await site.order("a", images=2)

    summary = await site.run(GEMINI_MODEL_NAME=model)

    assert summary["stopReason"] == "misconfigured"
    assert model in summary["problem"]
    assert told in summary["problem"]
    assert (site.job(job)["status"], site.job(job)["attempts"]) == ("pending", 0)
    site.audit(summary)


@pytest.mark.parametrize("how", ["retired", "closed"])
async def test_successors_are_followed_as_a_chain_within_one_run(site: Site, how: str) -> None:
    """With both known models gone, or closed to new users, a run makes its photos with the third."""
    site.gemini.configure(**{how: [MODEL, SUCCESSOR]})
    jobs = await site.order(*"abc", images=2)

    first = await site.run(IMAGES_AT_A_TIME="1")
    await site.order("d")
    before = len(site.calls())
    second = await site.run()

    assert (first["completed"], first["model"], first["changedOverFrom"]) == (3, NEWEST, MODEL)
    assert first["changeOverNote"] == "an image costs $0.0336 instead of $0.067"
    assert {site.job(job)["attempts"] for job in jobs} == {1}
    assert [call.model for call in site.calls() if call.outcome == "404"] == [MODEL, SUCCESSOR]
    hops = site.rows("select model, successor from generation.models where successor is not null order by 1")
    assert [(hop["model"], hop["successor"]) for hop in hops] == [(MODEL, SUCCESSOR), (SUCCESSOR, NEWEST)]
    assert [call.model for call in site.calls()[before:]] == [NEWEST]
    assert "changedOverFrom" not in second
    site.audit(first, second)


@pytest.mark.parametrize("hops", [{SUCCESSOR: MODEL}, {SUCCESSOR: NEWEST, NEWEST: SUCCESSOR}])
async def test_a_circle_of_models_that_are_gone_stops_the_run(site: Site, hops: dict[str, str]) -> None:
    """Successors that lead in a circle are each asked once, and the run says which model to name."""
    site.gemini.configure(retired=[MODEL, SUCCESSOR, NEWEST])
    for model, successor in {MODEL: SUCCESSOR, **hops}.items():
        site.rows(
            "update generation.models set successor = %s where model = %s returning model", successor, model
        )
    (job,) = await site.order("a")

    summary = await site.run()

    assert summary["stopReason"] == "misconfigured"
    assert "GEMINI_MODEL_NAME=" in summary["problem"]
    assert len(site.calls()) <= 3
    assert (site.job(job)["status"], site.job(job)["attempts"]) == ("pending", 0)
    site.audit(summary)


async def test_the_end_of_the_chain_is_misconfigured_and_names_a_model_that_google_has(site: Site) -> None:
    """Without a successor nothing is spent; the operator reads which model is available at which price."""
    site.gemini.configure(retired=[MODEL, SUCCESSOR, NEWEST])
    (job,) = await site.order("a")

    summary = await site.run()

    assert (summary["stopReason"], summary["changedOverFrom"]) == ("misconfigured", MODEL)
    assert f"Gemini has no model {NEWEST}" in summary["problem"]
    assert "GEMINI_MODEL_NAME=gemini-3.1-flash-lite-image" in summary["problem"]
    assert "$0.034 an image" in summary["problem"]
    assert [call.model for call in site.calls()] == [MODEL, SUCCESSOR, NEWEST]
    assert (site.job(job)["status"], site.job(job)["attempts"]) == ("pending", 0)
    site.audit(summary)


async def test_successors_that_lead_in_a_circle_are_misconfigured(site: Site) -> None:
    """Models that are each other's successors stop the run; after a correction the next run continues."""
    site.gemini.configure(retired=[MODEL, SUCCESSOR])
    site.rows(SUCCEED, MODEL, SUCCESSOR)
    await site.order("a")

    first = await site.run()
    site.rows(SUCCEED, NEWEST, SUCCESSOR)
    second = await site.run()

    assert (first["stopReason"], second["completed"], second["model"]) == ("misconfigured", 1, NEWEST)
    site.audit(first, second)


async def test_what_the_operator_corrects_is_followed_and_survives_an_installation(site: Site) -> None:
    """A successor and a price that are corrected in SQL apply to the next run, even after another install."""
    site.gemini.configure(retired=[MODEL])
    site.rows(SUCCEED, "gemini-3-pro-image", MODEL)
    site.rows("update generation.prices set dollars = 0.02 where model = %s returning model", MODEL)
    site.stack.postgres.run(project_sql())
    await site.order("a")

    summary = await site.run()

    assert summary["model"] == "gemini-3-pro-image"
    assert summary["changeOverNote"] == "an image costs $0.134 instead of $0.02"
    site.audit(summary)


@pytest.mark.parametrize("named", [{"GEMINI_MODEL_NAME": MODEL}, {"GEMINI_MODEL_FALLBACK": "off"}])
async def test_the_hint_names_the_first_successor_that_google_has(site: Site, named: dict[str, str]) -> None:
    """An operator without a fallback reads the name of a model that works."""
    site.gemini.configure(retired=[MODEL, SUCCESSOR])
    await site.order("a")

    summary = await site.run(**named)

    assert summary["stopReason"] == "misconfigured"
    assert f"GEMINI_MODEL_NAME={NEWEST}" in summary["problem"]
    assert SUCCESSOR not in summary["problem"]
    site.audit(summary)


async def test_the_successors_of_a_named_fallback_are_followed_too(site: Site) -> None:
    """A fallback that is gone leads to its own successor, which later runs of that worker ask at once."""
    site.gemini.configure(retired=[MODEL, SUCCESSOR])
    await site.order("a")
    first = await site.run(GEMINI_MODEL_FALLBACK=SUCCESSOR)
    before = len(site.calls())
    await site.order("b")

    second = await site.run(GEMINI_MODEL_FALLBACK=SUCCESSOR)

    assert (first["model"], second["model"]) == (NEWEST, NEWEST)
    assert [call.model for call in site.calls()[before:]] == [NEWEST]
    site.audit(first, second)


async def test_a_named_fallback_that_is_gone_is_not_returned_to(site: Site) -> None:
    """A run that has left the fallback uses what another worker found about the model in use."""
    site.gemini.configure(retired=[MODEL, SUCCESSOR])
    site.gemini.add_rule({"kind": "image", "hold": True}, times=1)
    await site.order("a", "b")
    run = asyncio.create_task(site.run(GEMINI_MODEL_FALLBACK=SUCCESSOR, JOBS_AT_A_TIME="1"))
    await site.until(lambda ledger: NEWEST in {call.model for call in ledger.calls})
    site.rows("select retire_generation_model(%s, 'gemini-3-pro-image')", NEWEST)
    site.gemini.release()

    summary = await run

    assert (summary["completed"], summary["model"]) == (2, "gemini-3-pro-image")
    assert [call.model for call in site.calls()] == [MODEL, SUCCESSOR, NEWEST, "gemini-3-pro-image"]
    site.audit(summary)


async def test_a_named_fallback_replaces_the_default_model(site: Site) -> None:
    """The named model is used instead of the announced successor."""
    site.gemini.configure(retired=[MODEL])
    await site.order("a")

    summary = await site.run(GEMINI_MODEL_FALLBACK="gemini-3-pro-image")

    assert (summary["completed"], summary["model"]) == (1, "gemini-3-pro-image")
    assert [row["model"] for row in site.photos()] == ["gemini-3-pro-image"]
    site.audit(summary)
