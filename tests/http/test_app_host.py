"""The demo app's server gives its password to its own pages only."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from local.demo.app_site import AppSite


@pytest.fixture
def app() -> Iterator[AppSite]:
    """The app, with a password that a stranger would like to have."""
    with AppSite(0, {"password": "a-password-of-a-test"}, "http://127.0.0.1:9", "secret") as site:
        yield site


def status(app: AppSite, method: str, path: str, **headers: str) -> int:
    """How a request is answered; the password must be in no refusal."""
    with httpx.Client(trust_env=False) as http:
        answer = http.request(method, app.url + path, headers=headers)
    assert answer.status_code == 200 or "a-password" not in answer.text
    return answer.status_code


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_its_own_page_is_served(app: AppSite, host: str) -> None:
    """Under any name of loopback."""
    port = httpx.URL(app.url).port
    own = {"Host": f"{host}:{port}"}
    assert status(app, "GET", "settings.json", **own) == 200
    assert status(app, "POST", "kick", **own, Origin=f"http://{host}:{port}") == 202


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""])
def test_a_name_that_leads_here_is_refused(app: AppSite, host: str) -> None:
    """A page of the web whose name was changed to loopback (DNS rebinding) reads no password."""
    port = httpx.URL(app.url).port
    for path in ("", "settings.json", "app.js"):
        assert status(app, "GET", path, Host=f"{host}:{port}") == 403
        assert status(app, "GET", path, Host=host) == 403


def test_what_another_page_posts_is_refused(app: AppSite) -> None:
    """A page of the web can post here without reading the answer: it starts no run."""
    assert status(app, "POST", "kick", Origin="https://evil.example") == 403
    assert status(app, "POST", "kick", Origin="null") == 403
