"""A customer's orders at a served worker, and the operator's page in a browser."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import psycopg
import pytest
from playwright.sync_api import Page, expect
from psycopg.rows import DictRow

from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.stack import Stack
from tests.support.browser import Window
from tests.support.queue_sql import Queue
from tests.support.runs import SOURCES, fresh_order, picture
from tests.support.served import OPERATOR_SECRET, SECRET


class Shop:
    """A customer with a source photo, and the queue as an operator has it."""

    def __init__(self, stack: Stack, function: Function, db: psycopg.Connection[DictRow]) -> None:
        self.stack, self.function, self.queue = stack, function, Queue(db)
        self.user_id, self.token = stack.sign_up()
        self.photo = f"{SOURCES}/{self.user_id}/me.png"
        keys = {"apikey": stack.secret_key, "Authorization": f"Bearer {stack.secret_key}"}
        self.http = httpx.Client(base_url=stack.url, headers=keys, timeout=60, trust_env=False)
        self.http.post("/storage/v1/bucket", json={"id": SOURCES, "name": SOURCES})
        stored = self.http.post(
            f"/storage/v1/object/{self.photo}", content=picture(), headers={"Content-Type": "image/png"}
        )
        stored.raise_for_status()

    def order(self, *names: str, images: int = 2) -> str:
        """A batch of one job for each name."""
        request = {"userId": self.user_id, **fresh_order(names, images, self.photo)}
        return str(self.queue.call("enqueue_generation_batch", p_request=request)["batchId"])

    def run(self) -> None:
        """A run of the served worker."""
        answer = httpx.post(
            self.function.url, headers={"X-Worker-Secret": SECRET}, timeout=120, trust_env=False
        )
        answer.raise_for_status()

    def statuses(self) -> list[str]:
        """The jobs' statuses by id."""
        rows = self.queue.connection.execute(
            "select status from photo_generation_queue order by id"
        ).fetchall()
        return [row["status"] for row in rows]


@pytest.fixture
def shop(
    stack: Stack, simulator: Simulator, served_queue: Function, db: psycopg.Connection[DictRow]
) -> Iterator[Shop]:
    """An empty queue, and a Gemini that sends small images at once."""
    simulator.reset()
    simulator.configure(latency=0.0, scale=0.25)
    opened = Shop(stack, served_queue, db)
    yield opened
    opened.http.close()
    simulator.reset()


def enter(window: Window, shop: Shop) -> Page:
    """The page, signed in."""
    page = window.page
    page.goto(f"{shop.function.url}/dashboard")
    page.get_by_label("Secret").fill(OPERATOR_SECRET)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Now")).to_be_visible()
    return page


def yes(page: Page, question: str, answer: str) -> None:
    """Confirm what is asked; it is asked."""
    dialog = page.get_by_role("dialog", name=question)
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name=answer, exact=True).click()
