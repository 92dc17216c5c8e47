"""The dashboard when something is wrong: that comes first, by reason, with what to do about each batch."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.support.browser import Window, loaded
from tests.support.runs import SOURCES
from tests.support.shop import Shop, enter, yes

pytestmark = pytest.mark.system

HOSTILE = "<img src=x onerror=document.title='owned'>"


def fail(shop: Shop, *names: str, times: int = 1, photo: str = "gone.png") -> list[str]:
    """Batches whose jobs fail, since their photo is not there."""
    there = shop.photo
    shop.photo = f"{SOURCES}/{shop.user_id}/{photo}"
    batches = [shop.order(*names) for _ in range(times)]
    shop.photo = there
    shop.run()
    return batches


def red(shape: Locator) -> bool:
    """Whether it is filled with a red."""
    fill = str(shape.evaluate("shape => getComputedStyle(shape).fill"))
    values = re.findall(r"\d+", fill)
    return int(values[0]) > 150 and int(values[0]) > 2 * max(int(values[1]), int(values[2]))


def test_what_wants_a_look_comes_first_and_by_reason(window: Window, shop: Shop) -> None:
    """The page first shows what failed: once per reason, with a count and the batches."""
    batches = fail(shop, "a", "b", times=2)
    page = enter(window, shop)
    expect(page.locator("main h2").first).to_have_text("Jobs that need attention")
    groups = page.locator("#troubles > li")
    expect(groups).to_have_count(1)
    expect(groups.locator("h3")).to_have_text("Failed: photo missing · 4 jobs")
    for batch in batches:
        expect(groups).to_contain_text(batch)
    window.check_accessibility()
    window.check(shop.function.url)


def test_what_failed_for_one_reason_each_in_its_own_words(window: Window, shop: Shop) -> None:
    """A message of a single job is shown at that job, not above the others."""
    first, second = fail(shop, "a"), fail(shop, "b", photo="other.png")
    rows = enter(window, shop).locator("#troubles > li li")
    for batches, photo, other in ((first, "gone.png", "other.png"), (second, "other.png", "gone.png")):
        row = rows.filter(has_text=batches[0])
        expect(row).to_contain_text(photo)
        expect(row).not_to_contain_text(other)
    expect(window.page.locator("#troubles > li > .says")).to_have_text("")


def test_one_batch_is_retried_alone(window: Window, shop: Shop) -> None:
    """A batch whose trouble is over is retried alone; the others stay as they are."""
    first, second = fail(shop, "a", times=2)
    page = enter(window, shop)
    page.get_by_role("button", name=f"Retry failed jobs of batch {first}").click()
    yes(page, "Retry this batch's failed jobs?", "Retry them")
    expect(page.locator("#said")).to_have_text("Retrying 1 job.")
    assert shop.statuses() == ["pending", "failed"]
    expect(page.locator("#troubles")).not_to_contain_text(first)
    expect(page.locator("#troubles")).to_contain_text(second)


def test_an_opened_batch_shows_its_jobs_and_images(window: Window, shop: Shop) -> None:
    """Each photo, or why there is none."""
    good = shop.order("a", images=2)
    shop.run()
    (bad,) = fail(shop, "b")
    page = enter(window, shop)
    page.locator("#batches").get_by_role("button", name=f"Open batch {good}").click()
    dialog = page.get_by_role("dialog", name=f"Batch {good}")
    expect(dialog).to_contain_text("Job 1: completed")
    expect(dialog.locator("img")).to_have_count(2)
    loaded(page.locator("#batch img"))
    window.check_accessibility()
    dialog.get_by_role("button", name="Close").click()
    page.locator("#troubles").get_by_role("button", name=f"Open batch {bad}").press("Enter")
    dialog = page.get_by_role("dialog", name=f"Batch {bad}")
    expect(dialog).to_contain_text("Job 2: failed")
    expect(dialog).to_contain_text("photo not found")
    expect(dialog.get_by_text("not made", exact=True)).to_have_count(2)
    dialog.get_by_role("button", name="Retry failed jobs").click()
    yes(page, "Retry this batch's failed jobs?", "Retry them")
    expect(dialog).to_contain_text("Job 2: ready")
    window.check(shop.function.url, shop.stack.url)


def retry_opened(page: Page, batch: str) -> None:
    """Open a batch and retry its failed jobs; then the page reloads all that it shows."""
    page.locator("#troubles").get_by_role("button", name=f"Open batch {batch}").click()
    page.get_by_role("dialog", name=f"Batch {batch}").get_by_role("button", name="Retry failed jobs").click()


def release(page: Page, held: Route) -> None:
    """Let an answer through, and wait until the page has got it and a later one."""
    with page.expect_response(held.request.url) as answer:
        held.continue_()
    answer.value.finished()
    page.evaluate("fetch('health').then((answer) => answer.text())")


def test_a_closed_batch_stays_closed(window: Window, shop: Shop) -> None:
    """The batch stays closed even if the page was just loading it again."""
    (batch,) = fail(shop, "a")
    page = enter(window, shop)
    retry_opened(page, batch)
    held: list[Route] = []
    page.route("**/batch?id=*", lambda route: held.append(route))
    with page.expect_request("**/batch?id=*"):
        yes(page, "Retry this batch's failed jobs?", "Retry them")
    page.get_by_role("dialog", name=f"Batch {batch}").get_by_role("button", name="Close").click()
    release(page, held[0])
    assert page.locator("dialog[open]").count() == 0


def test_the_batch_that_was_asked_for_last_is_shown(window: Window, shop: Shop) -> None:
    """A slow answer does not put another batch into the window whose jobs are about to be retried."""
    slow, quick = fail(shop, "a", times=2)
    page = enter(window, shop)
    held: list[Route] = []
    page.route(f"**/batch?id={slow}", lambda route: held.append(route))
    with page.expect_request(f"**/batch?id={slow}"):
        page.locator("#troubles").get_by_role("button", name=f"Open batch {slow}").click()
    page.locator("#troubles").get_by_role("button", name=f"Open batch {quick}").click()
    dialog = page.get_by_role("dialog", name=f"Batch {quick}")
    expect(dialog).to_be_visible()
    release(page, held[0])
    assert page.locator("#batch-title").inner_text() == f"Batch {quick}"


def test_a_secret_that_is_refused_is_asked_for_again(window: Window, shop: Shop) -> None:
    """With a batch open, too, the form for another secret is all there is to use."""
    (batch,) = fail(shop, "a")
    page = enter(window, shop)
    retry_opened(page, batch)
    page.route("**/overview", lambda route: route.fulfill(status=401, json={"error": {"message": "no"}}))
    yes(page, "Retry this batch's failed jobs?", "Retry them")
    expect(page.get_by_label("Secret")).to_be_focused()
    expect(page.locator("dialog[open]")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_failed_is_red(window: Window, shop: Shop, scheme: str) -> None:
    """A failed batch never looks like progress: its bar is red, and so is its part of a chart."""
    fail(shop, "a")
    window.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page = enter(window, shop)
    bar = page.locator("#batches svg.progress")
    expect(bar.locator(".failed")).to_have_attribute("width", "100")
    expect(bar.locator(".made")).to_have_attribute("width", "0")
    for shape in (bar.locator(".failed"), page.locator("#charts rect.failed").first):
        if scheme == "light":
            assert red(shape)
        fill = "shape => getComputedStyle(shape).fill"
        assert shape.evaluate(fill) != bar.locator(".made").evaluate(fill)


def test_charts_name_their_unit_maximum_and_time_range(window: Window, shop: Shop) -> None:
    """A chart can be read: what it counts, how much the top is, and from when to when."""
    shop.order("a", images=3)
    shop.run()
    page = enter(window, shop)
    expect(page.locator("#charts figure")).to_have_count(6)
    photos = page.locator("#charts figure").first
    expect(photos.locator(".unit")).to_have_text("photos per minute")
    expect(photos.locator(".heights span")).to_have_text(["4", "2", "0"])
    expect(photos.locator(".times span").last).to_have_text("now")
    expect(photos.locator(".times span").first).to_have_text(re.compile(r"\d\d:\d\d"))
    for figure in page.locator("#charts figure").all():
        assert figure.locator(".unit").inner_text() and figure.locator(".heights span").count() == 3


def test_what_others_wrote_stays_text(window: Window, shop: Shop) -> None:
    """HTML in an error, an id or a code is shown as text."""
    (batch,) = fail(shop, "a")
    shop.queue.connection.execute(
        'update photo_generation_queue set "errorMessage" = %s, "errorCode" = %s', [HOSTILE, HOSTILE]
    )
    page = enter(window, shop)
    expect(page.locator("#troubles")).to_contain_text(HOSTILE)
    page.locator("#troubles").get_by_role("button", name=f"Open batch {batch}").click()
    expect(page.get_by_role("dialog", name="Batch")).to_contain_text(HOSTILE)
    assert page.locator("#troubles img, #batch-jobs .says img").count() == 0
    assert page.title() != "owned"
    window.check(shop.function.url)


def test_nothing_waits_and_nothing_is_next(window: Window, shop: Shop) -> None:
    """A lease that will run out is no retry: a tile that says 0 names no time."""
    shop.order("a")
    assert shop.queue.run("worker").claim()
    page = enter(window, shop)
    tile = page.locator("#numbers div").filter(has_text="Waiting for a retry")
    expect(tile).to_contain_text("0")
    expect(tile).not_to_contain_text("next in")


def test_an_opened_batch_with_failures_fits_a_phone(window: Window, shop: Shop) -> None:
    """Nothing scrolls sideways."""
    (batch,) = fail(shop, "a", "b")
    window.page.set_viewport_size({"width": 390, "height": 844})
    page = enter(window, shop)
    expect(page.locator("#troubles")).to_contain_text(batch)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#troubles").get_by_role("button", name=f"Open batch {batch}").click()
    box = page.get_by_role("dialog", name="Batch").bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390
    window.check_accessibility()
