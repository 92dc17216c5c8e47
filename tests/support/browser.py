"""A real Chromium without a window, and what a page in it must not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

from local.stack.supabase import NODE_MODULES

# As root there is no sandbox; the others keep Chromium from asking hosts of its own.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
AXE = NODE_MODULES / "axe-core" / "axe.min.js"
SERIOUS = ("serious", "critical")
PATIENCE_MS = 30_000
"""How long a page may take to come to an expected state; only a test that fails waits as long."""

expect.set_options(timeout=PATIENCE_MS)


@dataclass(slots=True)
class Window:
    """A page, its console output, and the origins that it called."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    def watch(self) -> None:
        """Write down errors of the console and of scripts, and the origin of every request."""
        page = self.page
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.add(origin(request.url)))

    def check(self, *origins: str) -> None:
        """Nothing failed, and only these origins were called."""
        assert self.complaints == [], self.complaints
        strangers = self.asked - {"data://"} - {origin(url) for url in origins}
        assert not strangers, strangers

    def check_accessibility(self) -> None:
        """axe-core finds no barrier in the page as it is now."""
        self.page.evaluate(AXE.read_text("utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (violation["id"], [node["html"][:120] for node in violation["nodes"][:3]])
            for violation in found["violations"]
            if violation["impact"] in SERIOUS
        ]
        assert serious == [], serious


def loaded(photos: Locator) -> None:
    """Each of these images has loaded. Checked from outside: the page's policy forbids inline scripts."""
    for photo in photos.all():
        expect(photo).not_to_have_js_property("naturalWidth", 0)


def origin(url: str) -> str:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@pytest.fixture
def window(program: Callable[[str, str], str]) -> Iterator[Window]:
    """A window of 1200 × 900 pixels, on an empty profile."""
    # Started anew for each test: the driver's event loop would be in the way of the asynchronous ones.
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program("chromium", "chromium"), args=FLAGS)
        opened = Window(browser.new_page(viewport={"width": 1200, "height": 900}, reduced_motion="reduce"))
        opened.watch()
        opened.page.set_default_timeout(PATIENCE_MS)
        yield opened
        browser.close()
