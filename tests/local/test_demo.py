"""`make demo` shows what it promises, survives kill -9 of the function, and connects only to loopback."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from local.demo.environment import on_loopback
from local.stack.errors import StackError
from tests.local.test_stack import wait_until_gone
from tests.support.clone import Clone, descendants, read_until, wait_for

SIZES = {"1x1": (1024, 1024), "9x16": (768, 1344), "16x9": (1344, 768)}
COUNTS = {"1x1": 12, "9x16": 6, "16x9": 6}


def last_line(out: str) -> dict[str, Any]:
    """The object on the last line."""
    read: dict[str, Any] = json.loads(out.splitlines()[-1])
    return read


def check_photos(folder: Path) -> None:
    """Every image in the folder has the size that Gemini makes for the ratio in its name."""
    counts = dict.fromkeys(SIZES, 0)
    for path in folder.iterdir():
        if path.name != "index.html":
            ratio = path.name.split("-")[0]
            counts[ratio] += 1
            with Image.open(path) as image:
                image.load()
                assert image.size == SIZES[ratio]
    assert counts == COUNTS


def check_page(folder: Path) -> None:
    """The page shows every photo and the reason for each missing one, and loads nothing from elsewhere."""
    page = (folder / "index.html").read_text(encoding="utf-8")
    sources = set(re.findall(r'src="([^"]*)"', page))
    photos = {source for source in sources if not source.startswith("data:image/jpeg;base64,")}
    assert photos == {path.name for path in folder.iterdir()} - {"index.html"}
    assert len(sources - photos) == 3
    assert page.count('class="missing"') == 4
    assert "may copy a protected work" in page
    assert "photo not found" in page
    assert "{{" not in page
    assert "url(" not in page
    assert "<script" not in page


@pytest.fixture(scope="module")
def demo(clone: Clone) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of a demo with hostile variables and a hostile `.env`."""
    return clone.run("demo", "--fast")


@pytest.mark.slow
def test_the_demo_shows_every_path_and_totals_its_runs(clone: Clone, demo: tuple[int, str, str]) -> None:
    """Direct calls do worse, and the last line adds up the runs' own summaries."""
    status, out, err = demo
    assert (status, err) == (0, "")
    told = last_line(out)
    assert list(told) == ["jobs", "completed", "failed", "photos", "direct", "runs"]
    assert (told["jobs"], told["completed"], told["failed"], told["photos"]) == (9, 7, 2, 24)
    runs = told["runs"]
    assert sum(run["completed"] for run in runs) == 7
    assert sum(run["images"]["made"] for run in runs) == 24
    assert sum(run["images"]["refused"] for run in runs) == 3
    assert sum(run["rateLimited"] for run in runs) >= 1
    assert (runs[-1]["stopReason"], runs[-1]["nextAttemptInSeconds"]) == ("queue_empty", None)
    direct = told["direct"]
    assert direct["photos"] < 24
    assert direct["rateLimited"] > 1
    assert re.search(r"dahlia .* 1 × overloaded.*, made later", out)
    assert re.search(r"morning .* \d × 429, made later", out)
    line = f"direct: {direct['photos']} of 30 photos, {direct['rateLimited']} × 429 · queue: 24 of 30, "
    assert re.search(re.escape(line) + r"\d × 429\n", out)
    check_photos(clone.folder / "demo-output")
    check_page(clone.folder / "demo-output")


@pytest.mark.slow
def test_the_demo_pays_exactly_once_for_each_image(demo: tuple[int, str, str]) -> None:
    """The simulator's ledger shows this."""
    assert "24 images paid for, 24 kept, none asked for again once stored" in demo[1]


@pytest.mark.slow
def test_demo_stays_on_loopback(clone: Clone, demo: tuple[int, str, str]) -> None:
    """No exported variable, proxy or line of `.env` is used: their addresses are not called."""
    assert demo[0] == 0
    assert clone.trap.sprung == 0
    with pytest.raises(StackError, match="not on loopback"):
        on_loopback("https://abcdefgh.supabase.co")


@pytest.mark.slow
def test_a_killed_function_completes_its_batch_after_the_lease(clone: Clone) -> None:
    """No image is paid for twice; meanwhile a second demo says that one is running."""
    with clone.running("demo", "--fast") as process:
        simulator = read_until(process, "simulator").split(",")[0]
        function = int(read_until(process, "function").split("pid ")[1].split()[0])
        with httpx.Client(trust_env=False) as http:

            def is_calling() -> bool:
                calls = http.get(f"{simulator}/_sim/ledger").json()["calls"]
                return len(calls) > 3 and calls[-1]["outcome"] == "open"

            wait_for(is_calling)
        os.kill(function, signal.SIGKILL)
        status, _, err = clone.run("demo", "--fast")
        assert status == 1
        assert "Another stack is running" in err
        assert "Traceback" not in err
        out, err = process.communicate(timeout=90)
    assert (process.returncode, err) == (0, "")
    assert "the function died and was started again" in out
    assert re.search(r"2\d images paid for, 24 kept, none asked for again once stored", out)
    told = last_line(out)
    assert (told["completed"], told["failed"], told["photos"]) == (7, 2, 24)
    check_photos(clone.folder / "demo-output")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_stopped_demo_leaves_no_process_and_no_traceback(
    clone: Clone, number: signal.Signals, status: int
) -> None:
    """The demo is stopped or killed during a run."""
    with clone.running("demo", "--fast") as process:
        read_until(process, " run  ended by")
        started = descendants(process.pid)
        assert len(started) >= 4
        process.send_signal(number)
        _, err = process.communicate(timeout=90)
        assert (process.returncode, err) == (status, "")
    wait_until_gone(started, 30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"GEMINI_API_KEY": "", "REAL_GEMINI": "1"}, "Set GEMINI_API_KEY"),
        ({"REAL_GEMINI": "1"}, "set REAL_GEMINI=yes-i-pay"),
    ],
)
def test_google_is_not_called_without_a_key_and_consent_to_the_price(
    clone: Clone, variables: dict[str, str], said: str
) -> None:
    """The price is named first."""
    status, out, err = clone.run("demo", **variables)
    assert status == 1
    assert said in err
    assert ("$0.12 in all" in out) == ("GEMINI_API_KEY" not in variables)
    assert clone.trap.sprung == 0


def test_bar_on_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise stdout has only whole lines."""
    from local.demo.progress import Progress

    progress = Progress(sys.stdout)
    progress.bar(1, 2, "made")
    progress.say("a line")
    assert capsys.readouterr().out == "a line\n"


def test_json_is_for_programs_only() -> None:
    """A terminal shows no JSON; a pipe gets it as the last line."""
    from local.demo.progress import Progress

    controller, terminal = pty.openpty()
    pipe = io.StringIO()
    with os.fdopen(terminal, "w") as screen:
        for stream in (screen, pipe):
            progress = Progress(stream)
            progress.say("24 photos")
            progress.result({"photos": 24})
        shown = os.read(controller, 1000).decode()
    os.close(controller)
    assert shown == "24 photos\r\n"
    assert pipe.getvalue() == '24 photos\n{"photos": 24}\n'
