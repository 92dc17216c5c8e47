"""The OpenAPI descriptions agree with the code: paths, fields, reasons, limits, headers and refusals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.support.yaml_text import read_yaml
from worker import __version__
from worker.http import orders, process, response
from worker.http.auth import OPERATOR_HEADER, SECRET_HEADER, Caller
from worker.http.validation import MIN_BUDGET_SECONDS, MIN_JOBS
from worker.ops.sweep import Swept
from worker.run.request import MAX_JOBS
from worker.run.stop import StopReason
from worker.run.summary import IMAGE_COUNTS, Summary
from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTIONS = ROOT / "docs" / "openapi"
SCHEMES = {"workerSecret": Caller.CLOCK, "googleIdToken": Caller.CLOCK, "operatorSecret": Caller.OPERATOR}


def read(name: str) -> dict[str, Any]:
    """A description."""
    described: dict[str, Any] = read_yaml((DESCRIPTIONS / f"{name}.yaml").read_text())
    return described


QUEUE, ORDERS = read("process_generation_queue"), read("generate_images")
SCHEMAS: dict[str, Any] = QUEUE["components"]["schemas"]
ORDER: dict[str, Any] = ORDERS["components"]["schemas"]["Order"]


def sql(name: str) -> str:
    """A SQL file."""
    return (ROOT / "sql" / name).read_text()


def listed(text: str, pattern: str) -> list[str]:
    """The quoted words in the first match of a pattern."""
    found = re.search(pattern, text, re.DOTALL)
    assert found, pattern
    return re.findall(r"'([^']+)'", found[1])


def test_the_described_paths_are_the_functions_routes() -> None:
    """With their methods and callers."""
    described = {path: {m.upper() for m in methods} for path, methods in QUEUE["paths"].items()}
    assert described == {path: set(route.methods) for path, route in process.ROUTES.items()}
    for path, route in process.ROUTES.items():
        for operation in QUEUE["paths"][path].values():
            schemes = [name for each in operation.get("security", QUEUE["security"]) for name in each]
            assert schemes == [name for name, caller in SCHEMES.items() if caller in route.callers], path


def test_headers_of_the_secrets() -> None:
    """Each secret is described with the header that it travels in."""
    described = QUEUE["components"]["securitySchemes"]
    assert set(described) == set(SCHEMES)
    assert described["workerSecret"]["name"] == SECRET_HEADER
    assert described["operatorSecret"]["name"] == OPERATOR_HEADER


def test_both_descriptions_have_the_codes_version() -> None:
    """The version is that of the package."""
    assert {each["info"]["version"] for each in (QUEUE, ORDERS)} == {__version__}


def test_exactly_the_codes_stop_reasons_are_described() -> None:
    """No reason is missing or left over."""
    assert SCHEMAS["Summary"]["properties"]["stopReason"]["enum"] == list(get_args(StopReason))


def test_the_described_summary_has_the_codes_fields() -> None:
    """Fields that are always present are required."""
    usual = Summary("run", "worker", "model").as_json(1.0)
    full = Summary("run", "worker", "model", order_problem="p", answered_by=Counter(m=1), extra_images=1)
    full.changed_over_from, full.change_over_note = "m", "n"
    assert SCHEMAS["Summary"]["required"] == list(usual)
    assert set(SCHEMAS["Summary"]["properties"]) == set(full.as_json(1.0))
    assert SCHEMAS["Images"]["required"] == list(SCHEMAS["Images"]["properties"]) == list(IMAGE_COUNTS)


def test_the_described_sweep_answer_has_the_codes_fields() -> None:
    """No field is missing or left over."""
    assert SCHEMAS["Swept"]["required"] == list(SCHEMAS["Swept"]["properties"]) == list(Swept().as_json())


def test_the_described_limits_are_the_codes() -> None:
    """Jobs, seconds, bytes, times and lengths."""
    run, look = SCHEMAS["RunRequest"]["oneOf"]
    bounds = [
        (asked["properties"]["maxJobs"]["minimum"], asked["properties"]["maxJobs"]["maximum"])
        for asked in (run, look, SCHEMAS["SweepRequest"])
    ]
    assert bounds == [(MIN_JOBS, MAX_JOBS), (1, MAX_JOBS), (1, MAX_JOBS)]
    required = dict.fromkeys(("SUPABASE_SERVICE_ROLE_KEY", "GEMINI_API_KEY"), "key-of-a-test-1234567890")
    usual = Settings.from_env({"SUPABASE_URL": "https://a.supabase.co", **required}, "worker")
    seconds = run["properties"]["budgetSeconds"]
    assert (seconds["minimum"], seconds["maximum"]) == (MIN_BUDGET_SECONDS, usual.invocation_timeout_seconds)
    (key,) = ORDERS["paths"]["/"]["post"]["parameters"]
    assert key["schema"]["maxLength"] == orders.MAX_KEY_LENGTH
    assert f"more than {process.MAX_BODY_BYTES // 1024} KiB" in str(QUEUE)
    assert f"more than {orders.MAX_BODY_BYTES // 1024**2} MiB" in str(ORDERS)
    for described in (QUEUE, ORDERS):
        assert f"longer than {response.BODY_SECONDS:g} s" in str(described)
        error = described["components"]["schemas"]["Error"]["properties"]["error"]["properties"]
        assert {error[text]["maxLength"] for text in ("message", "hint")} == {response.MAX_TEXT_LENGTH}


def test_the_described_order_has_the_fields_that_the_database_takes() -> None:
    """The aspect ratios are the database's too."""
    text = sql("functions/30_enqueue.sql")
    taken = listed(text, r"v_fields text\[\] := array\[(.*?)\]")
    assert set(ORDER["properties"]) == set(taken)
    example = listed(text, r"refuse_unknown_fields\(p_example, array\[(.*?)\]")
    assert list(ORDER["properties"]["exampleImages"]["items"]["properties"]) == example
    ratios = listed(text, r"v_ratios constant text\[\] := array\[(.*?)\]")
    assert ORDER["properties"]["aspectRatio"]["enum"] == [*ratios, None]


def test_bounds_of_an_order() -> None:
    """Lists and numbers of an order are described with the database's bounds."""
    text = sql("functions/30_enqueue.sql")
    for name in ("exampleImages", "trainingImageUrls"):
        least, most = re.findall(rf"checked_array\([^()]*'{name}', (\d+), (\d+)\)", text)[0]
        described = ORDER["properties"][name]
        assert (described["minItems"], described["maxItems"]) == (int(least), int(most))
    found = re.findall(r"'numImagesPerExample', (\d+), (\d+), (\d+)\)", text)[0]
    images = ORDER["properties"]["numImagesPerExample"]
    assert (images["minimum"], images["maximum"], images["default"]) == tuple(map(int, found))


def test_refusals_of_an_order() -> None:
    """Every reason for which the database refuses an order, as sql/README.md lists them, is described."""
    row = next(
        line for line in sql("README.md").splitlines() if line.startswith("| `enqueue_generation_batch(")
    )
    reasons = {
        status: re.findall(r"`([a-z_]+)`", part)
        for status, part in re.findall(r"PT(\d+) ((?:`[a-z_]+`,? ?)+)", row)
    }
    assert set(reasons) == {"400", "403", "409", "413", "429"}
    for status, names in reasons.items():
        described = ORDERS["paths"]["/"]["post"]["responses"][status]["description"]
        assert set(names) <= set(re.findall(r"`([a-z_]+)`", described))


def test_the_described_preflight_is_the_codes() -> None:
    """A browser gets it before an order."""
    headers = ORDERS["paths"]["/"]["options"]["responses"]["204"]["headers"]
    assert headers["Access-Control-Allow-Headers"]["schema"]["const"] == orders.ALLOWED_HEADERS
    assert headers["Access-Control-Max-Age"]["schema"]["const"] == str(orders.PREFLIGHT_SECONDS)


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every described object, at any depth."""
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        if isinstance(each, dict) and each.get("type") == "object":
            yield each
        yield from objects(each)


@pytest.mark.parametrize("described", [QUEUE, ORDERS], ids=["queue", "orders"])
def test_no_described_object_allows_other_fields(described: dict[str, Any]) -> None:
    """Otherwise comparing answers would find nothing."""
    found = list(objects(described["components"]["schemas"]))
    assert len(found) > 3
    assert all(each["additionalProperties"] is False for each in found)
