"""The small app that `make up` serves, in a real browser: from signing in to four photos that arrive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from playwright.sync_api import Page, expect
from psycopg.rows import DictRow

from local.demo.app_site import AppSite, block
from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.stack import Stack
from tests.docs.test_app_page import ANYTHING
from tests.support.browser import Window, loaded
from tests.support.runs import picture
from tests.support.served import SECRET

pytestmark = pytest.mark.system

BUCKET = """
    insert into storage.buckets (id, name) values ('training-photos', 'training-photos')
    on conflict do nothing"""
NO_POLICY = 'drop policy if exists "own training photos" on storage.objects'


@pytest.fixture
def app(
    stack: Stack,
    simulator: Simulator,
    served_queue: Function,
    served_orders: Function,
    db: psycopg.Connection[DictRow],
) -> Iterator[AppSite]:
    """The demo app for a user who has signed up, with both served functions."""
    simulator.reset()
    simulator.configure(latency=0.0, scale=0.25)
    login = {"email": f"{uuid4().hex[:12]}@example.com", "password": "a-password-of-a-test"}
    stack.supabase.call("/auth/v1/signup", login, stack.publishable_key)
    db.execute(BUCKET)
    db.execute(f"{NO_POLICY}; {block('sql upload')}".encode())
    settings = {
        "supabaseUrl": stack.url,
        "ordersUrl": served_orders.url,
        "publishableKey": stack.publishable_key,
    }
    with AppSite(0, settings | login, served_queue.url, SECRET) as site:
        yield site
    db.execute(NO_POLICY)
    db.execute(ANYTHING)
    simulator.release()
    simulator.reset()


def sign_in(window: Window, app: AppSite) -> Page:
    """The page, with the form to order."""
    page = window.page
    page.goto(app.url)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Order four photos")).to_be_visible()
    return page


def order(page: Page, folder: Path) -> None:
    """Choose a photo and order."""
    (folder / "me.png").write_bytes(picture())
    page.get_by_label("Your photo").set_input_files(folder / "me.png")
    page.get_by_role("button", name="Order four photos").click()


def test_a_signed_in_user_orders_and_sees_four_photos(
    window: Window, app: AppSite, stack: Stack, served_orders: Function, tmp_path: Path
) -> None:
    """Somebody signs in, chooses a photo, orders, and sees four come."""
    page = sign_in(window, app)
    window.check_accessibility()
    order(page, tmp_path)
    expect(page.get_by_role("status")).to_have_text("All there: 4 of 4 photos.", timeout=60_000)
    expect(page.locator("#photos img")).to_have_count(4)
    loaded(page.locator("#photos img"))
    expect(page.get_by_role("alert")).to_be_empty()
    window.check_accessibility()
    # The local stack has no Realtime, and a browser says so itself.
    window.complaints = [text for text in window.complaints if "/realtime/" not in text]
    window.check(app.url, stack.url, served_orders.url, stack.url.replace("http", "ws"))


def test_what_could_not_be_made_is_no_progress(
    window: Window, app: AppSite, simulator: Simulator, tmp_path: Path
) -> None:
    """If no photo could be made, the bar is red only, with the reason below."""
    simulator.add_rule({"kind": "finish", "reason": "IMAGE_SAFETY"}, times=4)
    page = sign_in(window, app)
    order(page, tmp_path)
    expect(page.get_by_role("status")).to_have_text("None could be made: 0 of 4 photos.", timeout=60_000)
    bar = page.get_by_role("img", name="0 of 4 photos made, 4 failed")
    expect(bar.locator(".failed")).to_have_attribute("width", "100")
    expect(bar.locator(".failed")).to_have_css("fill", "rgb(179, 38, 30)")
    expect(bar.locator(".made")).to_have_attribute("width", "0")
    expect(page.get_by_role("alert")).not_to_be_empty()
    window.check_accessibility()


def test_the_rest_is_cancelled(window: Window, app: AppSite, simulator: Simulator, tmp_path: Path) -> None:
    """Photos that are not made yet will not be made, and the page says so."""
    simulator.add_rule({"kind": "image", "hold": True}, times=4)
    page = sign_in(window, app)
    order(page, tmp_path)
    expect(page.get_by_role("status")).to_contain_text("Being made")
    expect(page.get_by_text("there is no Realtime here")).to_be_visible()
    page.get_by_role("button", name="Cancel the rest").click()
    expect(page.get_by_role("status")).to_have_text("Cancelled: 0 of 4 photos.")


def test_a_wrong_password_is_said(window: Window, app: AppSite) -> None:
    """The user learns why the sign-in failed, and stays on the page."""
    page = window.page
    page.goto(app.url)
    page.get_by_label("Password").fill("not-the-password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).not_to_be_empty()
    expect(page.locator("#order")).to_be_hidden()
