"""The dashboard in a real browser with a real queue: it shows the state, and acts after a confirmation."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from local.demo.function import Function
from local.simulator.gemini import Simulator
from local.stack.folder import Folder
from local.stack.stack import Stack
from tests.support.browser import Window, loaded
from tests.support.runs import MODEL, SOURCES, process_environment
from tests.support.served import OPERATOR_SECRET, SECRET
from tests.support.shop import Shop, enter, yes

pytestmark = pytest.mark.system


def test_the_dashboard_of_an_empty_queue_says_what_to_do(window: Window, shop: Shop) -> None:
    """Before the first run; after it, that everything works."""
    page = enter(window, shop)
    expect(page.get_by_role("status").first).to_contain_text("No run has started yet: set up a clock")
    for nothing in (
        "Nothing has been ordered yet.",
        "No photo has been made yet.",
        "No run has started yet.",
    ):
        expect(page.get_by_text(nothing)).to_be_visible()
    window.check_accessibility()
    shop.run()
    well = "Good All is well: no job is due, no job is stuck."
    expect(page.get_by_role("status").first).to_have_text(well)
    window.check(shop.function.url)


def test_the_dashboard_shows_new_orders_and_photos_without_a_reload(window: Window, shop: Shop) -> None:
    """The number of waiting jobs is updated too."""
    shop.order("a", "b")
    shop.run()
    page = enter(window, shop)
    photos = page.locator("#photos img")
    expect(photos).to_have_count(4)
    page.locator("#photos").scroll_into_view_if_needed()
    loaded(page.locator("#photos img"))
    expect(page.locator("#charts svg")).to_have_count(6)
    for kind in ("made", "mean"):
        expect(page.locator(f"#charts rect.{kind}").first).to_be_attached()
    expect(page.locator("#batches li")).to_contain_text("4 of 4 images; 2 of 2 jobs ended")
    expect(page.locator("#runs tr")).to_contain_text("queue empty")
    expect(page.locator("#caps")).to_contain_text("4 images, at most $0.16; no cap")
    expect(page.locator("#caps")).to_contain_text("Each user")
    window.check_accessibility()
    shop.order("c", images=1)
    expect(page.locator("#batches li")).to_have_count(2)
    shop.run()
    expect(photos).to_have_count(5)
    photos.first.click()
    expect(page.get_by_role("dialog", name="Photo")).to_be_visible()
    loaded(page.locator("#photo img"))
    page.keyboard.press("Escape")
    window.check(shop.function.url, shop.stack.url)


def test_the_dashboard_retries_and_releases_after_a_confirmation(window: Window, shop: Shop) -> None:
    """A failed job shows its reason."""
    shop.photo = f"{SOURCES}/{shop.user_id}/gone.png"
    shop.order("lost")
    shop.run()
    shop.order("stuck")
    assert len(shop.queue.run("dead").claim()) == 1
    shop.queue.connection.execute(
        "update photo_generation_queue set \"lockedAt\" = now() - interval '6 minutes', "
        "\"leaseExpiresAt\" = now() - interval '1 minute' where status = 'processing'"
    )
    page = enter(window, shop)
    expect(page.locator("#troubles")).to_contain_text("photo not found")
    expect(page.locator("#troubles")).to_contain_text("Worker died")
    expect(page.get_by_role("status").first).to_contain_text("Attention")
    window.check_accessibility()

    page.get_by_role("button", name="Retry all failed").click()
    window.check_accessibility()
    page.get_by_role("button", name="Go back").click()
    assert shop.statuses() == ["failed", "processing"]
    page.get_by_role("button", name="Retry all failed").click()
    yes(page, "Retry all failed jobs?", "Retry them")
    expect(page.locator("#said")).to_have_text("Retrying 1 job.")
    assert shop.statuses() == ["pending", "processing"]

    page.get_by_role("button", name="Release stale locks").click()
    yes(page, "Release stale locks?", "Release them")
    expect(page.locator("#said")).to_have_text("1 job released.")
    assert shop.statuses() == ["pending", "pending"]
    expect(page.locator("#no-troubles")).to_be_visible()
    window.check(shop.function.url)


def test_cancel_pause_and_resume(window: Window, shop: Shop) -> None:
    """A batch is cancelled, all generation paused with a reason and resumed, by keyboard alone."""
    shop.run()
    batch = shop.order("a", "b")
    page = enter(window, shop)
    page.get_by_role("button", name=f"Cancel batch {batch}").press("Enter")
    yes(page, "Cancel this batch?", "Cancel the batch")
    expect(page.locator("#said")).to_have_text("2 jobs cancelled.")
    assert shop.statuses() == ["cancelled", "cancelled"]

    page.get_by_role("button", name="Pause").press("Enter")
    page.get_by_label("Reason").fill("the bill looks odd")
    page.get_by_role("dialog").get_by_role("button", name="Pause").press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("Paused (the bill looks odd)")
    assert shop.queue.call("generation_gate")["pauseReason"] == "the bill looks odd"
    shop.queue.open_gate()
    expect(page.locator("#gate")).to_contain_text("0 today, closed by a pause")
    page.get_by_role("button", name="Resume").press("Enter")
    yes(page, "Resume generation?", "Resume")
    expect(page.get_by_role("status").first).to_contain_text("Good")
    assert shop.queue.call("generation_gate")["pausedAt"] is None
    window.check(shop.function.url)


def test_a_wrong_secret_shows_nothing(window: Window, shop: Shop) -> None:
    """The user reads that it is wrong and can try again; the secret is in no URL."""
    page = window.page
    page.goto(f"{shop.function.url}/dashboard")
    window.check_accessibility()
    page.get_by_label("Secret").fill("not-the-secret-0123456789")
    page.get_by_label("Secret").press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This is not the value of OPERATOR_SECRET.")
    expect(page.locator("main")).to_be_hidden()
    assert page.evaluate("sessionStorage.length") == 0
    assert len(window.complaints) == 1 and "401" in window.complaints[0], "only the refusal itself"
    page.get_by_label("Secret").fill(OPERATOR_SECRET)
    page.get_by_label("Secret").press("Enter")
    expect(page.get_by_role("heading", name="Now")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Now")).to_be_visible()
    assert page.url == f"{shop.function.url}/dashboard"
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("main")).to_be_hidden()
    assert page.evaluate("sessionStorage.length") == 0


def test_the_clocks_secret_shows_nothing(window: Window, shop: Shop) -> None:
    """A user who enters WORKER_SECRET, as in older versions, learns which secret is needed."""
    page = window.page
    page.goto(f"{shop.function.url}/dashboard")
    expect(page.locator("#sign-in")).to_contain_text("the value of OPERATOR_SECRET")
    page.get_by_label("Secret").fill(SECRET)
    page.get_by_label("Secret").press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This is not the value of OPERATOR_SECRET.")
    expect(page.locator("main")).to_be_hidden()


@pytest.mark.parametrize("secrets", [{"WORKER_SECRET": SECRET}, {}], ids=["only the clock's", "none"])
@pytest.mark.parametrize("width", [1280, 390])
def test_without_its_secret_it_says_what_to_set(
    window: Window, stack: Stack, simulator: Simulator, tmp_path: Path, secrets: dict[str, str], width: int
) -> None:
    """If OPERATOR_SECRET is not set, the page says how to set it."""
    environment = process_environment(stack, simulator) | secrets
    with Function("process_generation_queue", Folder(tmp_path), environment) as function:
        page = window.page
        page.set_viewport_size({"width": width, "height": 844})
        page.goto(f"{function.url}/dashboard")
        expect(page.get_by_role("heading", name="Access is not set up")).to_be_visible()
        expect(page.get_by_role("alert")).to_contain_text("OPERATOR_SECRET is not set")
        expect(page.get_by_role("alert")).to_contain_text("openssl rand -hex 32")
        expect(page.locator("#sign-in")).to_be_hidden()
        expect(page.locator("main")).to_be_hidden()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        window.check_accessibility()
        assert all("403" in complaint for complaint in window.complaints), "only the refusal itself"


@pytest.mark.usefixtures("db")
def test_on_ones_own_machine_it_asks_for_nothing(
    window: Window, stack: Stack, simulator: Simulator, tmp_path: Path
) -> None:
    """With WORKER_DEVELOPMENT and no credential, the queue is shown at once."""
    environment = process_environment(stack, simulator) | {"WORKER_DEVELOPMENT": "1"}
    with Function("process_generation_queue", Folder(tmp_path), environment) as function:
        page = window.page
        page.goto(f"{function.url}/dashboard")
        expect(page.get_by_role("heading", name="Now")).to_be_visible()
        expect(page.get_by_role("button", name="Sign out")).to_be_hidden()
        window.check(function.url)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_dashboard_fits_390_pixels(window: Window, shop: Shop, scheme: str) -> None:
    """Nothing scrolls sideways, and it is readable in both color schemes."""
    shop.order("a")
    shop.run()
    window.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    window.page.set_viewport_size({"width": 390, "height": 844})
    page = enter(window, shop)
    expect(page.locator("#photos img")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    window.check_accessibility()
    window.check(shop.function.url, shop.stack.url)


def test_the_dashboard_works_behind_a_path_prefix(window: Window, shop: Shop) -> None:
    """All its requests use the prefix."""
    page, base = window.page, shop.function.url

    def forward(route: object) -> None:
        request = route.request  # type: ignore[attr-defined]
        path = request.url.removeprefix(f"{base}/queue/")
        assert path != request.url, request.url
        answer = httpx.request(
            request.method,
            f"{base}/{path}",
            headers={"X-Operator-Secret": request.headers.get("x-operator-secret", "")},
            timeout=30,
            trust_env=False,
        )
        route.fulfill(status=answer.status_code, headers=dict(answer.headers), body=answer.content)  # type: ignore[attr-defined]

    page.route("**/*", forward)
    page.goto(f"{base}/queue/dashboard")
    page.get_by_label("Secret").fill(OPERATOR_SECRET)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text(MODEL)).to_be_visible()
    window.check(base)


def test_what_wants_attention_stands_first(window: Window, shop: Shop) -> None:
    """The announced end of a model in use is on the page, and goes when it is corrected."""
    ends = 'update generation.models set "announcedEnd" = {} where model = %s'
    shop.queue.connection.execute(ends.format("(now() at time zone 'UTC')::date + 30").encode(), [MODEL])
    shop.order("a")
    shop.run()
    page = enter(window, shop)
    warning = page.get_by_text(f"{MODEL} is announced to end on")
    expect(warning).to_be_visible()
    window.check_accessibility()
    shop.queue.connection.execute(ends.format("null").encode(), [MODEL])
    expect(warning).to_be_hidden()
