"""The benchmark itself: bounds of options, the worse ratio, which peer is missing, what a failure leaves."""

from __future__ import annotations

import importlib.util
import json
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import all as all_parts
from bench.claims import COLD, Scenario
from bench.harness.bounds import above, whole
from bench.queues import other_queues
from bench.queues.floor import Pace
from local.stack.errors import StackError


@pytest.mark.parametrize(
    ("read", "taken", "refused"),
    [
        (whole(4, 12, 4), ["4", "8", "12"], ["0", "3", "6", "16", "4.0", "-4", ""]),
        (whole(1), ["1", "1000000"], ["0", "1000001"]),
        (above(6.0), ["6.1", "3600"], ["6", "5", "nan", "inf", "x"]),
    ],
)
def test_arguments_out_of_bounds_are_argparse_errors(
    read: Callable[[str], float], taken: list[str], refused: list[str]
) -> None:
    """Anything within the bounds is taken as it is."""
    assert [read(text) for text in taken] == [float(text) for text in taken]
    for text in refused:
        with pytest.raises(ArgumentTypeError):
            read(text)


def test_a_flat_settle_hides_no_slow_claim() -> None:
    """The ratio is the worse of the two, each against its own; what is cold does not count."""
    cold = [99.0] * COLD
    reference = Scenario("reference", claims=[*cold, 1.0], settles=[*cold, 8.0])
    assert Scenario("claim", claims=[*cold, 2.0], settles=[*cold, 8.0]).ratio(reference) == 2
    assert Scenario("settle", claims=[*cold, 1.0], settles=[*cold, 12.0]).ratio(reference) == 1.5


def test_paces_are_ratios_to_the_floor() -> None:
    """Ours, the bare statements and each peer."""
    pace = Pace(ours=100, floor=400, bare=200, peers={"other": 40})
    assert pace.figures() == {
        "floor_ratio": 0.25, "bare_ratio": 0.5, "peers": {"other": 0.1}, "jobs_per_second": 100,
    }  # fmt: skip


def test_a_peer_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that shows it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert not list(other_queues.installed())
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in said] == ["pgqueuer", "procrastinate"]
    assert all("pip install -r bench/queues.txt" in line for line in said)


def test_an_error_inside_an_installed_peer_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A peer that is installed, but lacks one of its own modules, is not skipped."""
    (tmp_path / "pgqueuer.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pgqueuer"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError):
        next(other_queues.installed())


def test_a_part_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those before and after it are written; it is named at the end."""
    monkeypatch.setattr(all_parts, "FIGURES", tmp_path / "new" / "bench.json")
    monkeypatch.setattr(all_parts, "PARTS", ("first", "second", "third"))
    monkeypatch.setattr(
        all_parts, "last_line", lambda part, _brief: None if part == "second" else {"of": part}
    )
    with pytest.raises(StackError, match="second"):
        all_parts.measure(Namespace(brief=True))
    figures = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert (figures["first"], figures["third"], figures["failed"]) == (
        {"of": "first"}, {"of": "third"}, ["second"],
    )  # fmt: skip
    assert {"processor", "python", "postgresql"} <= set(figures["measured_on"])
