"""A user's limits over HTTP: 429 with when there is room, at once, and nothing of the operator's money."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import httpx
import pytest

from local.demo.function import Function
from tests.sql.test_access_tokens import orders  # noqa: F401  (a fixture)
from tests.support.queue_sql import NO_LIMITS, Queue
from tests.support.runs import fresh_order
from tests.support.tokens import Signer

pytestmark = pytest.mark.usefixtures("as_installed")

ORDER = fresh_order(("a",), 4, "https://photos.example.com/a.jpg")


def post(
    orders: Function,  # noqa: F811
    signer: Signer,
    order: dict[str, object] = ORDER,
    key: str | None = None,
) -> httpx.Response:
    """A user's order, of four images by default."""
    headers = {"Authorization": f"Bearer {signer.sign(sub='member')}"}
    if key:
        headers["Idempotency-Key"] = key
    return httpx.post(orders.url, json=order, headers=headers, timeout=30, trust_env=False)


def test_a_full_day_says_when_it_ends(orders: Function, signer: Signer, queue: Queue) -> None:  # noqa: F811
    """Retry-After names the end of the day."""
    queue.call("set_generation_limits", p_limits=NO_LIMITS | {"userDollarsPerDay": 0.2})
    first = post(orders, signer, key="k")
    assert first.status_code == 202
    answer = post(orders, signer)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (429, "user_daily_limit")
    assert "4 of your images count for today" in error["message"] and "$" not in answer.text
    reset = queue.one("select generation.next_daily_reset(now()) as at")["at"]
    assert parsedate_to_datetime(answer.headers["Retry-After"]) == reset
    assert answer.elapsed.total_seconds() < 2
    again = post(orders, signer, key="k")
    assert (again.status_code, again.json()["batchId"]) == (202, first.json()["batchId"])


def test_a_full_queue_says_what_makes_room(orders: Function, signer: Signer, queue: Queue) -> None:  # noqa: F811
    """There is no Retry-After, since the time is unknown: the hint says what to wait for."""
    queue.call("set_generation_limits", p_limits=NO_LIMITS | {"userImagesQueued": 5})
    assert post(orders, signer).status_code == 202
    answer = post(orders, signer)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (429, "user_queue_full")
    assert "cancel some" in error["hint"] and "Retry-After" not in answer.headers


def test_too_much_text_says_how_many_images_fit(orders: Function, signer: Signer) -> None:  # noqa: F811
    """Less than a MiB is sent, and more would be written: the app gets the database's words as 413."""
    long = "https://photos.example.com/" + "\U0001d11e" * 2000
    answer = post(
        orders,
        signer,
        ORDER
        | {
            "exampleImages": [{"url": "https://photos.example.com/a.jpg"}] * 100,
            "trainingImageUrls": [long] * 13,
        },
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (413, "order_too_large")
    assert "Order at most 40 example images" in error["hint"]
