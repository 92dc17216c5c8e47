"""`show`, `gate remove`, `erase` of an unknown user, `--version`; and an old or incomplete Python."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.support import faults
from tests.support.command_line import ROOT, CommandLine
from tests.support.fault_calls import rpc
from tests.support.faults import FaultProxy
from tests.support.runs import MODEL, Site
from worker import __version__
from worker.cli.main import main
from worker.run.request import RunRequest

OLD_PYTHON = (
    "import sys, runpy; sys.version_info = (3, 10, 4); runpy.run_module('worker', run_name='__main__')"
)


async def test_show_lists_a_batchs_jobs_errors_and_photos(cli: CommandLine, site: Site) -> None:
    """`show` prints the path of each photo."""
    site.gemini.add_rule({"kind": "finish", "reason": "IMAGE_SAFETY"}, prompt="[bad]", times=2)
    good, bad = await site.order("good", "bad", images=2)
    await site.run()
    batch = site.job(good)["batchId"]
    shown = (await cli.call("show", batch)).out
    assert f"batch {batch}: partial" in shown and "2 of 4 made, 2 failed" in shown
    assert f"job {good}: completed" in shown and f"job {bad}: failed" in shown
    assert "attempts: 1 of 5" in shown and "(image_safety)" in shown.lower()
    for photo in site.photos():
        assert photo["storagePath"] in shown
    details = (await cli.call("show", batch, "--json")).json
    assert details["found"] == "batch"
    assert [[image["state"] for image in job["images"]] for job in details["jobs"]] == [
        ["refused", "refused"],
        ["made", "made"],
    ]


async def test_show_with_a_number_shows_only_that_job(cli: CommandLine, site: Site) -> None:
    """A waiting job is shown too, with its missing images."""
    first, second = await site.order("a", "b", images=1)
    shown = (await cli.call("show", str(second))).out
    assert f"job {second}: ready" in shown and f"job {first}" not in shown
    assert "image 0   missing" in shown
    site.rows(
        "update photo_generation_queue set status = 'processing', \"lockedBy\" = 'w', \"lockedAt\" = now(),"
        " \"leaseExpiresAt\" = now() - interval '1 s' where id = %s returning 1",
        first,
    )
    assert "its worker died" in (await cli.call("show", str(first))).out


@pytest.mark.parametrize("name", ["8d1cab83-d2c8-4d40-b700-d451e3e9e6b4", "4711", "9" * 40, "x' or 1"])
async def test_show_what_is_not_there(cli: CommandLine, db: object, name: str) -> None:
    """An id that nothing has is refused in words."""
    assert "there is no batch and no job" in (await cli.call("show", name)).complained(1)


def test_version_prints_the_release(capsys: pytest.CaptureFixture[str]) -> None:
    """The option is `--version`."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"generation-worker {__version__}\n")


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The help lists every command."""
    with pytest.raises(SystemExit) as ended:
        main([])
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert "show the queue's numbers" in told.err and "example:" in told.err


async def test_gate_of_a_misspelled_model(cli: CommandLine, db: object) -> None:
    """A rate for a model that nothing knows is refused, with the names that are known."""
    said = (await cli.call("gate", "set", "--model", "gemini-2.5-flash-imgae", "--rate", "5")).complained(2)
    assert "the model 'gemini-2.5-flash-imgae' is unknown" in said and MODEL in said and "--new-model" in said
    assert "imgae" not in (await cli.call("gate", "show", "--json")).out
    taken = await cli.call("gate", "set", "--model", "gemini-9", "--rate", "5", "--new-model")
    assert taken.code == 0 and "gemini-9: 5 starts per minute" in taken.out
    assert (await cli.call("gate", "set", "--model", "gemini-9", "--rate", "6")).code == 0, "it is known now"


async def test_no_model_is_called_unknown_while_nobody_can_know(cli: CommandLine, site: Site) -> None:
    """An outage while a rate is set is reported as an outage; the name may be correct."""
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(faults.reset, rpc("generation_models"), times=10)
        outage = {"SUPABASE_URL": proxy.url}
        done = await cli.call("gate", "set", "--model", "gemini-3-pro-image", "--rate", "5", env=outage)
    assert "did not answer" in done.complained(1)


async def test_only_an_unused_gate_can_be_removed(cli: CommandLine, site: Site) -> None:
    """A gate in use, the worker's own gate and an unknown one are refused."""
    await cli.call("gate", "set", "--model", "gemini-9", "--rate", "5", "--new-model")
    await site.order("a")
    await site.run()
    shown = (await cli.call("gate", "remove", "gemini-9")).out
    assert MODEL in shown and "gemini-9" not in shown
    assert "'gemini-9' has no gate" in (await cli.call("gate", "remove", "gemini-9")).complained(2)
    assert "its gate is in use" in (await cli.call("gate", "remove", MODEL)).complained(2)
    other = {"GEMINI_MODEL_NAME": "gemini-9"}
    assert "(gate_in_use)" in (await cli.call("gate", "remove", MODEL, env=other)).complained(1)


async def test_erase_reports_an_unknown_user_id(cli: CommandLine, site: Site) -> None:
    """The id was probably mistyped, so nothing is recorded."""
    await site.order("a")
    await site.worker().run(RunRequest())
    done = await cli.call("erase", "nobody-here", "--yes")
    assert done.code == 0 and done.json["jobsRemoved"] == 0
    assert "nothing was found for 'nobody-here'" in done.log
    assert "was found" not in (await cli.call("erase", site.user, "--yes")).log


def started(*options: str) -> subprocess.CompletedProcess[str]:
    """Python with these options, in the project's folder."""
    return subprocess.run([sys.executable, *options], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_missing_packages_are_reported_with_the_install_command() -> None:
    """There is no traceback."""
    done = started("-S", "-m", "worker", "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the packages are not installed" in done.stderr and "pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_an_old_python() -> None:
    """The error is one line, and the file parses on old Pythons."""
    done = started("-c", OLD_PYTHON)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Python 3.11 or newer is required" in done.stderr and "3.10.4" in done.stderr
    assert done.stderr.count("\n") == 1
    for name in ("__init__", "__main__"):
        ast.parse((ROOT / "worker" / f"{name}.py").read_text(), feature_version=(3, 7))
