"""The way out: Supabase and Gemini are reached through the environment's proxy, photo hosts never."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.forward_proxy import ForwardProxy, forwarding
from tests.support.photo_host import Authority, running
from tests.support.runs import Site
from worker.errors import Misconfigured, QueueUnavailable, Transient
from worker.gemini.client import Gemini
from worker.log.secret import Secret
from worker.supabase.client import Project
from worker.supabase.queue import Queue

SUPABASE = "abc.supabase.co"
GEMINI = "generativelanguage.googleapis.com"
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ForwardProxy]:
    """A proxy for https."""
    async with forwarding() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        yield proxy


async def ask_supabase(url: str = f"https://{SUPABASE}") -> None:
    """One call to Supabase, which fails here."""
    project = Project(url, Secret("sb_secret_of_a_test"))
    try:
        await Queue(project, "worker").rpc("generation_gate", {}, 5.0, tries=1)
    finally:
        await project.close()


async def ask_gemini() -> None:
    """One call to Gemini, which fails here."""
    gemini = Gemini("key-of-a-test", time.monotonic)
    try:
        await gemini.check("gemini-2.5-flash-image", 5.0)
    finally:
        await gemini.close()


async def test_supabase_and_gemini_take_the_proxy_alike(proxy: ForwardProxy) -> None:
    """Both clients ask the proxy for a tunnel."""
    with pytest.raises(QueueUnavailable):
        await ask_supabase()
    with pytest.raises(Transient):
        await ask_gemini()
    assert proxy.asked == [f"CONNECT {SUPABASE}:443", f"CONNECT {GEMINI}:443"]


async def test_exceptions_from_the_proxy_hold_for_both(
    proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that NO_PROXY names is reached without the proxy, whoever asks for it."""
    monkeypatch.setenv("NO_PROXY", ".invalid,googleapis.com")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "https://gemini.invalid")
    with pytest.raises(QueueUnavailable):
        await ask_supabase("https://supabase.invalid")
    with pytest.raises(Transient):
        await ask_gemini()
    assert proxy.asked == []


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_no_proxy_is_given_a_key_in_clear(
    proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """An http:// address in a private network is called directly, since a proxy would read the key."""
    monkeypatch.setenv(variable, proxy.url)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://gemini.invalid")
    with pytest.raises(QueueUnavailable):
        await ask_supabase("http://supabase.invalid")
    with pytest.raises(Transient):
        await ask_gemini()
    assert proxy.asked == []


async def test_this_machine_is_reached_without_a_proxy(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack on loopback works although the proxy does not know it."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, NOBODY)
    await site.order("a")
    assert (await site.run())["completed"] == 1


async def test_photo_hosts_are_never_asked_for_through_a_proxy(proxy: ForwardProxy, tmp_path: Path) -> None:
    """A proxy would look the host up again, and so defeat the check of its addresses."""
    async with running(Authority(tmp_path)) as world:
        assert (await world.fetch()).mime_type == "image/jpeg"
    assert proxy.asked == []


async def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of proxy that is not supported stops the run, which says which variables to look at."""
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:70")
    for ask in (ask_supabase, ask_gemini):
        with pytest.raises(Misconfigured, match="ALL_PROXY") as caught:
            await ask()
        assert caught.value.code == "proxy"


async def test_certificates_that_cannot_be_read_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missing file of certificates stops the run, which says which variables to look at."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    for ask in (ask_supabase, ask_gemini):
        with pytest.raises(Misconfigured, match="SSL_CERT_FILE"):
            await ask()
