"""The command line: what goes in, what comes out on stdout and stderr, and with which exit code it ends."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.support.command_line import CommandLine
from tests.support.runs import KEY, Site, fresh_order
from worker.cli.arguments import parser
from worker.cli.main import main

QUEUE = ["tick", "run", "drain", "enqueue", "status", "show", "release-stale", "retry-failed", "gate"]
COMMANDS = [*QUEUE, "models", "hosts", "photo", "cancel", "sweep", "prune", "erase", "check"]
WITHOUT_KEY = ["status", "release-stale", "retry-failed", "cancel none", "enqueue -", "tick --dry-run"]
NOBODY = {"SUPABASE_URL": "http://127.0.0.1:9"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example_its_output_and_the_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example is of the command itself."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"python -m worker {command}" in shown.partition("example:")[2]
    assert "\noutput: " in shown
    assert "exit codes:\n  0" in shown
    assert max(map(len, shown.splitlines())) <= 110


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The general help names all commands, and this test knows all of them."""
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("    ")] == COMMANDS


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["tock"],
        ["tick", "--max-jobs", "0"],
        ["tick", "--max-jobs", "1001"],
        ["tick", "--max-jobs", "1" * 5000],
        ["tick", "--budget-seconds", "nan"],
        ["release-stale", "--older-than-seconds", "-1"],
        ["retry-failed", "--limit", "2.5"],
        ["cancel"],
        ["enqueue"],
        ["tick", "--env-file", "a", "--no-env-file"],
    ],
)
def test_invalid_arguments_exit_with_2_before_anything_is_done(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The usage is printed."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m worker" in capsys.readouterr().err


def test_env_file_before_and_after_the_command() -> None:
    """The option may be on either side of the command; a given value beats the other side's default."""
    assert parser().parse_args(["--env-file", "a", "status"]).env_file == "a"
    assert parser().parse_args(["status", "--env-file", "a"]).env_file == "a"
    assert parser().parse_args(["--no-env-file", "status"]).env_file is None
    assert parser().parse_args(["status", "--no-env-file"]).env_file is None
    assert str(parser().parse_args(["status"]).env_file) == ".env"


async def test_tick_works_a_job_off(cli: CommandLine, site: Site) -> None:
    """A run makes the photos; stdout has only the summary, as the database has it."""
    (job,) = await site.order("one", images=2)
    done = await cli.call("tick")
    assert done.code == 0
    summary = done.json
    assert (summary["stopReason"], summary["claimed"], summary["completed"]) == ("queue_empty", 1, 1)
    assert "job_completed" in done.log
    assert site.job(job)["status"] == "completed"
    site.audit(summary)


async def test_tick_is_bounded_by_its_options(cli: CommandLine, site: Site) -> None:
    """A dry run claims nothing and names what comes next; a run of one job leaves the others."""
    first, second = await site.order("one", "two")
    seen = await cli.call("tick", "--dry-run", "--max-jobs", "1")
    assert [job["id"] for job in seen.json["jobs"]] == [first]
    assert {site.job(job)["status"] for job in (first, second)} == {"pending"}
    done = await cli.call("tick", "--max-jobs", "1", "--budget-seconds", "200")
    assert (done.code, done.json["stopReason"], done.json["claimed"]) == (0, "max_jobs", 1)
    assert site.job(second)["status"] == "pending"
    refused = await cli.call("tick", "--budget-seconds", "241")
    assert "at most the invocation timeout, 240" in refused.complained(2)


async def test_a_misconfigured_tick_prints_its_summary_and_exits_with_1(cli: CommandLine, site: Site) -> None:
    """A script sees that the run could do nothing."""
    (job,) = await site.order("one")
    site.gemini.configure(invalid_keys=[KEY])
    done = await cli.call("tick")
    assert (done.code, done.json["stopReason"]) == (1, "misconfigured")
    assert "key" in done.json["problem"]
    assert (site.job(job)["status"], site.job(job)["attempts"]) == ("pending", 0)


@pytest.mark.usefixtures("no_backoff")
async def test_every_command_reports_an_unreachable_supabase_and_exits_with_1(cli: CommandLine) -> None:
    """The message names the next step."""
    for command in (["tick"], ["status"], ["enqueue", "-"]):
        done = await cli.call(*command, stdin=b"{}", env=NOBODY)
        said = done.complained(1)
        assert "error: " in said and "python -m worker " in said
    assert "may be enqueued nevertheless" in said


async def test_settings_are_listed_at_once(cli: CommandLine) -> None:
    """All missing and invalid settings are listed on stderr, by name and without their values."""
    hostile = {
        "SUPABASE_URL": "javascript:alert(1)",
        "SUPABASE_SERVICE_ROLE_KEY": None,
        "GEMINI_API_KEY": "schlüssel\nmit umbruch",
        "CALL_TIMEOUT_SECONDS": "NaN",
        "JOBS_AT_A_TIME": "-1",
        "WORKER_SECRET": "too-short",
        "WORKER_ID": "../../etc",
        "LOG_LEVEL": "loud",
    }
    said = (await cli.call("tick", env=hostile)).complained(2)
    assert [name for name in hostile if f"  {name} " not in said] == []
    assert [value for value in ("too-short", "alert", "schl") if value in said] == []


@pytest.mark.parametrize("arguments", WITHOUT_KEY)
async def test_only_who_calls_gemini_needs_its_key(cli: CommandLine, arguments: str) -> None:
    """Commands that only manage the queue do not need it."""
    done = await cli.call(*arguments.split(), stdin=b"{}", env={"GEMINI_API_KEY": None})
    assert done.code != 2, done


async def test_a_dotenv_file_is_read_literally_after_exported_variables(cli: CommandLine, site: Site) -> None:
    """`.env` is read from the working directory; exported variables take precedence."""
    exported = {"SUPABASE_SERVICE_ROLE_KEY": None, "GEMINI_API_KEY": None, "GOOGLE_GEMINI_BASE_URL": None}
    lines = [
        "\ufeffSUPABASE_URL=https://nowhere.example",
        f'export SUPABASE_SERVICE_ROLE_KEY="{site.stack.secret_key}"',
        f"GEMINI_API_KEY='{KEY}'  # a remark",
        f"GOOGLE_GEMINI_BASE_URL={site.gemini.url}",
        "WORKER_ID=from-the-file",
        "UNFINISHED",
    ]
    (cli.folder / ".env").write_text("\n".join(lines))
    await site.order("one")
    summary = (await cli.call("tick", env={"WORKER_ID": "exported", **exported})).json
    assert (summary["workerId"], summary["completed"]) == ("exported", 1)
    without = await cli.call("status", "--no-env-file", env=exported)
    assert "SUPABASE_SERVICE_ROLE_KEY is not set" in without.complained(2)
    (cli.folder / ".env").rename(cli.folder / "other")
    assert (await cli.call("--env-file", "other", "status", "--json", env=exported)).code == 0


@pytest.mark.parametrize(
    ("mode", "open_to_others"),
    [
        (0o600, False),
        (0o640, True),
        pytest.param(0o400, False, marks=pytest.mark.slow),
        pytest.param(0o644, True, marks=pytest.mark.slow),
    ],
)
async def test_an_env_file_that_others_may_read_is_warned_of(
    cli: CommandLine, mode: int, open_to_others: bool
) -> None:
    """Keys in a file that every user of the machine may read are no secret: the log says how to close it."""
    path = cli.folder / "its settings"
    path.write_text("WORKER_ID=from-the-file\n")
    path.chmod(mode)
    for command in ("status", "check"):
        done = await cli.call(command, "--env-file", str(path))
        assert (f"chmod 600 '{path}'" in done.log) == open_to_others, done.log


async def test_env_file_that_cannot_be_read(cli: CommandLine) -> None:
    """A file that was named must be there; one that is no text is refused in words."""
    assert "gone.env cannot be read" in (await cli.call("status", "--env-file", "gone.env")).complained(2)
    (cli.folder / ".env").write_bytes(b"A=\xff\xfe")
    assert ".env is not a text file" in (await cli.call("status")).complained(2)
    (cli.folder / ".env").write_bytes(b"A=a\0b")
    assert ".env is not a text file" in (await cli.call("status")).complained(2)


async def test_enqueue_reads_a_file_or_stdin_and_orders_once_per_key(cli: CommandLine, site: Site) -> None:
    """The answer is printed each time."""
    order = {"userId": site.user, **fresh_order(("one", "two"), 3, site.photo)}
    (cli.folder / "order.json").write_text("\ufeff" + json.dumps(order))
    first = await cli.call("enqueue", "order.json", "--idempotency-key", "k")
    assert (first.json["jobsEnqueued"], first.json["imagesEnqueued"], first.json["created"]) == (2, 6, True)
    again = await cli.call("enqueue", "-", "--idempotency-key", "k", stdin=json.dumps(order).encode())
    assert again.json == {**first.json, "created": False}
    assert len(site.rows("select from photo_generation_queue")) == 2


@pytest.mark.parametrize(
    ("order", "told"),
    [
        (None, "cannot be read: No such file"),
        (b'{"a": 1,}', "line 1"),
        (b"[]", "the order must be a JSON object"),
        (b"\xff", "UTF-8"),
        (b'{"a": NaN}', "number"),
    ],
)
async def test_enqueue_of_an_unusable_file(cli: CommandLine, order: bytes | None, told: str) -> None:
    """A file that is missing or no JSON object is refused by name and place, before anything is sent."""
    if order is not None:
        (cli.folder / "o.json").write_bytes(order)
    said = (await cli.call("enqueue", "o.json", env=NOBODY)).complained(2)
    assert "o.json" in said and told in said


async def test_refusals_come_with_their_hint(cli: CommandLine) -> None:
    """A refusal of the database is printed with its reason and hint, and exits with 1."""
    said = (await cli.call("enqueue", "-", stdin=b'{"basePrompt": "x"}')).complained(1)
    assert "error: userId is missing" in said and "hint: Name the user" in said
    said = (await cli.call("cancel", "no-such-batch")).complained(1)
    assert "(no_such_batch)" in said and "hint: Check the batch id." in said


async def test_status_shows_a_table_or_the_databases_json(cli: CommandLine, site: Site) -> None:
    """The table works for an empty queue too."""
    empty = await cli.call("status")
    assert empty.code == 0 and "no run has started yet" in empty.out
    await site.order("good")
    await site.order("bad", photo=f"training-photos/{site.user}/gone.png")
    await site.run()
    await site.order("later")
    shown = (await cli.call("status")).out
    rows = {line[2:15].strip(): line[15:].split() for line in shown.splitlines() if line.startswith("  ")}
    assert (rows["ready"][0], rows["completed"], rows["failed"][0]) == ("1", ["1"], "1")
    assert "photo_missing 1" in shown and "queue_empty" in shown
    stats = (await cli.call("status", "--json")).json
    assert (stats["ready"], stats["lastDay"]["failed"]) == (1, 1)


def status_of(site: Site) -> list[Any]:
    """The jobs' states, in order of their ids."""
    return [row["status"] for row in site.rows("select status from photo_generation_queue order by id")]


async def test_release_retry_and_cancel_change_the_database_and_print_its_answer(
    cli: CommandLine, site: Site
) -> None:
    """Each is checked in the rows."""
    (job,) = await site.order("one")
    await site.worker().queue.claim(uuid4(), uuid4(), 10, 100.0, "model", 10.0)
    assert status_of(site) == ["processing"]
    assert (await cli.call("release-stale")).json == {"released": 0}
    assert (await cli.call("release-stale", "--older-than-seconds", "0")).json == {"released": 1}
    assert status_of(site) == ["pending"]
    (failing,) = await site.order("two", photo=f"training-photos/{site.user}/gone.png")
    await site.run()
    assert status_of(site) == ["completed", "failed"]
    batch = site.job(failing)["batchId"]
    assert (await cli.call("retry-failed", "--batch", site.job(job)["batchId"])).json == {"retried": 0}
    assert (await cli.call("retry-failed", "--batch", batch, "--limit", "5")).json == {"retried": 1}
    assert status_of(site) == ["completed", "pending"]
    assert (await cli.call("cancel", batch)).json["jobsCancelled"] == 1
    assert (await cli.call("retry-failed", "--including-refused")).json == {"retried": 0}
