"""How much text an order may bring along, and how much it may leave in the queue."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgrest.exceptions import APIError

from tests.support.installation import User
from tests.support.queue_sql import Queue, order, refused

MIB = 1024 * 1024
HOST = "https://photos.example.com/"
SIGNED = HOST + "s" * (500 - len(HOST))
"""As long as a signed address of Supabase Storage with a large token."""


def filled(letter: str, references: str, examples: int = 100) -> dict[str, Any]:
    """An order in which everything is as long as its field may be."""
    return order(
        basePrompt=letter * 4000,
        exampleImages=[{"id": "i" * 200, "url": references, "prompt": letter * 4000}] * examples,
        trainingImageUrls=[references] * 13,
        glasses=letter * 200,
        hairColor=letter * 200,
        hairStyle=letter * 200,
        backgrounds=[letter * 200] * 10,
        styles=[letter * 200] * 10,
    )


def refusal(queue: Queue, request: dict[str, Any]) -> psycopg.errors.Diagnostic:
    """How an order is refused."""
    with pytest.raises(psycopg.Error) as caught:
        queue.call("enqueue_generation_batch", p_request=request)
    return caught.value.diag


def test_the_longest_order_in_ascii_is_taken(queue: Queue) -> None:
    """An order that keeps to the length of each field meets neither limit."""
    request = filled("x", HOST + "a" * (2048 - len(HOST)))
    assert queue.call("enqueue_generation_batch", p_request=request)["jobsEnqueued"] == 100


def test_a_long_order_in_another_script_is_taken(queue: Queue) -> None:
    """A character is up to four bytes: prompts and styles as long as they may be, with signed addresses."""
    request = filled("写", SIGNED) | {"exampleImages": [{"url": SIGNED}] * 100}
    assert queue.call("enqueue_generation_batch", p_request=request)["jobsEnqueued"] == 100


def test_an_order_leaves_no_more_than_4_mib_of_repeated_text(queue: Queue) -> None:
    """142 KB could become 14 MB, since each job's row has the text that all jobs of an order share."""
    request = filled("\U0001d11e", HOST + "\U0001d11e" * (2048 - len(HOST)))
    request["exampleImages"] = [{"url": SIGNED}] * 100
    with refused("413", "order_too_large", "100 jobs"):
        queue.call("enqueue_generation_batch", p_request=request)
    assert set(queue.written().values()) == {0}
    most = int(str(refusal(queue, request).message_hint).split("at most ")[1].split()[0])
    assert 10 < most < 50
    request["exampleImages"] = [{"url": SIGNED}] * most
    assert queue.call("enqueue_generation_batch", p_request=request)["jobsEnqueued"] == most


@pytest.mark.parametrize("key", [None, "k"])
async def test_an_order_past_our_function_has_its_bound(
    queue: Queue, user: Callable[[], Awaitable[User]], key: str | None
) -> None:
    """PostgREST takes bodies of any size: the database refuses what `generate_images` does, first of all."""
    someone = await user()
    parameters = {"p_request": {"basePromt": "x" * MIB}, "p_idempotency_key": key}
    with pytest.raises(APIError) as caught:
        await someone.client.rpc("enqueue_generation_batch", parameters).execute()
    assert (caught.value.code, caught.value.details) == ("PT413", "order_too_large")
    assert "1048576" in str(caught.value.message) and caught.value.hint
    assert set(queue.written().values()) == {0}


def test_a_refusal_names_a_few_unknown_fields(queue: Queue) -> None:
    """The answer stays short: five names, shortened, and the number of the others."""
    names = {f"{i:03d}" + "n" * 1000: 1 for i in range(500)}
    for request, said in (
        (order() | names, "and 495 more"),
        (order(exampleImages=[{"url": SIGNED} | dict.fromkeys(names, "1")]), "and 495 more"),
        (order() | dict.fromkeys("abcde", 1), "unknown field a, b, c, d, e"),
    ):
        told = refusal(queue, request)
        assert told.message_detail == "unknown_field"
        assert said in str(told.message_primary)
        assert len(str(told.message_primary)) < 400


def test_a_refusal_does_not_repeat_a_number_of_a_thousand_digits(queue: Queue) -> None:
    """Only its beginning is shown."""
    request = json.dumps(order()).replace('"numImagesPerExample": 1', f'"numImagesPerExample": {"9" * 1000}')
    with pytest.raises(psycopg.Error) as caught:
        queue.connection.execute("select enqueue_generation_batch(%s::jsonb)", [request])
    assert caught.value.diag.message_detail == "out_of_range"
    assert len(str(caught.value.diag.message_primary)) < 200


LONG_NUMBERS = ("1e131071", "-1e131071", "0e-16383", "1e-16383")
"""Their texts have 131 072 and 16 385 characters; jsonb keeps each in 8 to 16 bytes."""


@pytest.mark.parametrize("field", ["unknown", "basePrompt", "numImagesPerExample", "styles", "exampleImages"])
@pytest.mark.parametrize("number", LONG_NUMBERS)
def test_numbers_cost_no_more_memory_than_they_were_sent_in(queue: Queue, number: str, field: str) -> None:
    """An order of 72 kB, refused or not, took 3 GB of the database's memory."""
    body = json.dumps(order() | {field: "#"}).replace('"#"', f"[{', '.join([number] * 2000)}]")
    before = peak_mebibytes(queue.connection)
    with pytest.raises(psycopg.Error) as caught:
        queue.connection.execute("select enqueue_generation_batch(%s::jsonb)", [body])
    assert caught.value.diag.message_detail in ("unknown_field", "wrong_type")
    assert peak_mebibytes(queue.connection) - before < 16


def peak_mebibytes(connection: psycopg.Connection[Any]) -> int:
    """The most memory that the connection's process in the database has had."""
    status = Path(f"/proc/{connection.info.backend_pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024
