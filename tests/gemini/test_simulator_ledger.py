"""The Gemini simulator's quotas, ledger, control and life, asked by the real google-genai client."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from google.genai import errors

from local.simulator.gemini import Simulator
from local.simulator.latency import Latency
from local.simulator.ledger import Ledger
from tests.support.simulated import MODEL, Generate, HandClock, images, photo, sdk, settled


async def test_the_simulators_quota_counts_in_a_sliding_window(
    gemini: Simulator, generate: Generate, hand_clock: HandClock
) -> None:
    """A 429 names the time until the oldest call leaves it."""
    gemini.configure(quotas={MODEL: {"requests_per_minute": 2}})
    outcomes = []
    for hand_clock.seconds in (0.0, 30.0, 40.5, 59.9, 60.0, 61.0, 90.0):
        try:
            outcomes.append("image" if images(await generate()) else "none")
        except errors.ClientError as error:
            outcomes.append(error.details["error"]["details"][2]["retryDelay"])
    assert outcomes == ["image", "image", "19.5s", "0.1s", "image", "29s", "image"]
    assert images(await generate(model="gemini-3-pro-image"))
    assert gemini.ledger.starts_in_window(60, model=MODEL, admitted=True) == 2
    assert gemini.ledger.starts_in_window(60, model=MODEL) == 5
    assert gemini.ledger.outcomes() == {"image": 5, "429": 3}


async def test_hammering_can_be_made_to_count(
    gemini: Simulator, generate: Generate, hand_clock: HandClock
) -> None:
    """With `count_rejected` a rejected call counts too, so a caller who hammers never gets through."""
    gemini.configure(quotas={"*": {"requests_per_minute": 1, "count_rejected": True}})
    await generate()
    for hand_clock.seconds in (40.0, 80.0, 120.0):
        with pytest.raises(errors.ClientError):
            await generate()


async def test_the_day_is_named_though_the_delay_is_short(gemini: Simulator, generate: Generate) -> None:
    """A used-up day's quota is named in the violation while RetryInfo still speaks of seconds."""
    gemini.configure(quotas={"*": {"requests_per_day": 1, "requests_per_minute": 1}})
    await generate()
    with pytest.raises(errors.ClientError) as caught:
        await generate()
    _, failure, retry = caught.value.details["error"]["details"]
    assert failure["violations"][0]["quotaId"] == "GenerateRequestsPerDayPerProjectPerModel"
    assert failure["violations"][0]["quotaValue"] == "1"
    assert retry["retryDelay"] == "59s"


async def test_no_quota_at_all_hides_its_zero(gemini: Simulator, generate: Generate) -> None:
    """A quota of zero has no quotaValue, names the free tier, and mentions zero only in the text."""
    gemini.configure(quotas={"*": 0})
    with pytest.raises(errors.ClientError) as caught:
        await generate()
    violations = caught.value.details["error"]["details"][1]["violations"]
    assert all(item["quotaId"].endswith("-FreeTier") and "quotaValue" not in item for item in violations)
    assert "limit: 0" in (caught.value.message or "")


async def test_calls_can_be_held_and_released(
    gemini: Simulator, generate: Generate, hand_clock: HandClock
) -> None:
    """A held call stays open until it is released, so that a test can act meanwhile."""
    gemini.add_rule({"kind": "image", "hold": True}, times=3)
    calls = [asyncio.create_task(generate(f"portrait {number}")) for number in range(3)]
    await settled(gemini, lambda ledger: ledger.outcomes() == {"open": 3})
    assert gemini.paid() == 0
    hand_clock.seconds = 5.0
    gemini.release()
    assert all(images(answer) for answer in await asyncio.gather(*calls))
    assert (gemini.paid(), gemini.ledger.most_open()) == (3, 3)


async def test_the_ledger_tells_who_asked_for_what(gemini: Simulator, generate: Generate) -> None:
    """A call's entry has its facts and the image's hash, and never the key or the whole prompt."""
    prompt = "a portrait " * 20
    answer = await generate(prompt, ratio="9:16", photos=(photo(), photo("red")))
    await generate(prompt)
    call = gemini.ledger.calls[0]
    assert (call.model, call.photos, call.aspect_ratio, call.images) == (MODEL, 2, "9:16", 1)
    assert call.prompt_start == prompt[:60]
    assert call.bytes_in > 2 * len(photo())
    assert len(call.image_shas[0]) == 16
    assert answer.candidates
    assert gemini.ledger.prompts() == {call.prompt_sha: {"calls": 2, "images": 2}}
    assert "key-of-a-test" not in json.dumps(call.as_json())


def test_the_busiest_window_is_found() -> None:
    """`starts_in_window` is the most starts of any half-open window, as counting at every start finds it."""
    chance = random.Random(7)
    for _ in range(50):
        starts = [chance.randrange(40) / 2 for _ in range(chance.randrange(1, 30))]
        ledger = Ledger()
        for start in starts:
            ledger.open(
                started=start,
                model=MODEL,
                key="",
                prompt_sha="",
                prompt_start="",
                photos=0,
                bytes_in=0,
                aspect_ratio="1:1",
            )
        counted = max(sum(start <= other < start + 5 for other in starts) for start in starts)
        assert ledger.starts_in_window(5) == counted


@pytest.mark.parametrize(
    ("latency", "low", "high"),
    [
        (Latency.parse(0.3), 0.3, 0.3),
        (Latency("uniform", low_seconds=1, high_seconds=2, scale=0.5), 0.5, 1.0),
        (Latency("lognormal", median_seconds=1.2, sigma=0.8, high_seconds=9), 0.0, 9.0),
    ],
)
def test_latencies_keep_to_their_range_and_repeat(latency: Latency, low: float, high: float) -> None:
    """Every value is in the distribution's range, and a seed repeats them."""
    draws = [latency.draw(random.Random(seed)) for seed in range(500)]
    assert low <= min(draws) <= max(draws) <= high
    assert draws == [latency.draw(random.Random(seed)) for seed in range(500)]


async def test_the_simulator_can_be_controlled_over_http(
    gemini: Simulator, generate: Generate, wire: httpx.AsyncClient
) -> None:
    """Everything that Python can set and read; invalid values are refused."""
    control = f"{gemini.url}/_sim"
    for path, wrong in (
        ("configure", {"speed": 1}),
        ("configure", {"quotas": {"*": {"rpm": 1}}}),
        ("rules", [{}]),
    ):
        answer = await wire.post(f"{control}/{path}", json=wrong)
        assert (answer.status_code, bool(answer.json()["error"])) == (400, True)
    await wire.post(
        f"{control}/configure", json={"quotas": {MODEL: 1}, "latency": {"kind": "constant", "scale": 0}}
    )
    await wire.post(f"{control}/rules", json=[{"times": 1, "answer": {"kind": "image", "hold": True}}])
    call = asyncio.create_task(generate())
    await settled(gemini, lambda ledger: ledger.calls)
    await wire.post(f"{control}/release")
    assert images(await call)
    with pytest.raises(errors.ClientError):
        await generate()
    told = (await wire.get(f"{control}/ledger", params={"window_seconds": 1})).json()
    assert told["summary"]["outcomes"] == {"image": 1, "429": 1}
    assert (told["summary"]["paid"], told["summary"]["starts_in_window"]) == (1, 2)
    assert [entry["outcome"] for entry in told["calls"]] == ["image", "429"]
    later = await wire.get(f"{control}/ledger", params={"after": told["calls"][0]["sequence"]})
    assert len(later.json()["calls"]) == 1
    await wire.post(f"{control}/reset", json={"keep_behaviour": True})
    assert images(await generate())
    with pytest.raises(errors.ClientError):
        await generate()
    await wire.post(f"{control}/reset")
    assert [bool(images(await generate())) for _ in range(2)] == [True, True]


async def test_stopping_cuts_what_hangs(wire: httpx.AsyncClient, generate: Generate) -> None:
    """`stop` returns though a call would hang for ever; its client sees the connection break."""
    with Simulator() as other:
        other.add_rule({"kind": "hang"})
        call = asyncio.create_task(generate(client=sdk(wire, other.url)))
        await settled(other, lambda ledger: ledger.calls)
    with pytest.raises(httpx.TransportError):
        await call


def test_it_runs_as_a_process() -> None:
    """`python -m local.simulator.gemini` prints its URL as JSON, serves, and ends well on SIGTERM."""
    command = [sys.executable, "-m", "local.simulator.gemini", "--settings", '{"latency": 0}']
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        assert httpx.get(f"{url}/_sim/ledger").json()["summary"]["calls"] == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
