"""What an operator sees of the models: the warning before an announced end, the rows, corrections."""

from __future__ import annotations

import json

import pytest

from tests.support.command_line import CommandLine
from tests.support.runs import MODEL, NEWEST, Site
from worker.ops.check import check
from worker.ops.metrics import metrics_text

SOON = "(now() at time zone 'UTC')::date + 30"
ENDS_SOON = f'update generation.models set "announcedEnd" = {SOON} where model = %s returning model'


@pytest.mark.slow
async def test_an_announced_end_is_warned_of_wherever_one_looks(cli: CommandLine, site: Site) -> None:
    """Check, status (text and JSON) and metrics warn a month before the end of a model in use."""
    site.rows(ENDS_SOON, MODEL)
    await site.order("a")
    await site.run()

    checked = await cli.call("check")
    assert checked.code == 0 and f"warning  models    {MODEL} is announced to end on" in checked.out
    assert f"python -m worker models set {MODEL}" in checked.out
    (row,) = site.rows("select generation.expected_successor(%s, current_date) as model", MODEL)
    switch = "by itself when Google shuts the model down; to switch now, set GEMINI_MODEL_NAME"
    assert f"{switch}={row['model']}" in checked.out
    shown = await cli.call("status")
    assert f"warning: {MODEL} is announced to end on" in shown.out and "in 30 days" in shown.out
    stats = json.loads((await cli.call("status", "--json")).out)
    assert [each["subject"] for each in stats["warnings"]] == [MODEL]
    text = metrics_text(stats).decode()
    assert f'generation_model_end_days{{model="{MODEL}"}} 30.0' in text
    assert f'generation_warnings{{about="model",subject="{MODEL}"}} 1.0' in text


async def test_a_model_that_the_operator_named_is_warned_of_before_its_first_photo(site: Site) -> None:
    """Check warns of the end of a model that the settings name, though nothing has been made with it."""
    site.rows(ENDS_SOON, NEWEST)
    usual = {finding.name: finding for finding in await check(site.worker())}["models"]
    findings = await check(site.worker(GEMINI_MODEL_NAME=NEWEST))
    named = {finding.name: finding for finding in findings}["models"]
    assert usual.state == "ok"
    assert named.state == "warning" and f"{NEWEST} is announced to end on" in named.message


async def test_rows_are_shown_and_corrected_from_the_command_line(cli: CommandLine, site: Site) -> None:
    """`models list` shows a line each, `models set` corrects one, and says what can be set."""
    shown = await cli.call("models", "list")
    assert f"{NEWEST}: $0.0336 an image" in shown.out
    await cli.call(
        "models",
        "set",
        MODEL,
        "--ends",
        "2031-03-15",
        "--dollars",
        "0.04",
        "--successor",
        NEWEST,
        "--source",
        "me",
    )
    shown = await cli.call("models", "list")
    assert f"{MODEL}: $0.04 an image; ends 2031-03-15; successor {NEWEST}\n" in shown.out
    (row,) = site.rows("select source from generation.models where model = %s", MODEL)
    assert row["source"] == "me"
    cleared = await cli.call("models", "set", MODEL, "--ends", "none", "--json")
    rows = {each["model"]: each for each in json.loads(cleared.out)["models"]}
    assert rows[MODEL]["announcedEnd"] is None and rows[MODEL]["announcedSuccessor"] == NEWEST
    assert "--ends" in (await cli.call("models", "set", MODEL)).complained(2)
