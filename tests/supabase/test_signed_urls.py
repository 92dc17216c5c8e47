"""Addresses of photos: signed once in a while, good when they are given out, and missed without harm."""

from __future__ import annotations

import httpx

from tests.support import faults
from tests.support.faults import FaultProxy
from tests.support.runs import Site
from worker.log.secret import Secret
from worker.supabase.client import Project
from worker.supabase.signed_urls import FRESH_SECONDS, MISSING_SECONDS, VALID_SECONDS, Gallery
from worker.supabase.storage import PhotoStore

SIGN = "/storage/v1/object/sign/"


class Clock:
    """A monotonic clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


async def paths_of(site: Site) -> list[str]:
    """Two photos that were made."""
    await site.order("a", images=2)
    await site.run()
    return [str(row["storagePath"]) for row in site.photos()]


async def test_an_address_is_signed_once(site: Site) -> None:
    """A page that asks every few seconds has each photo signed once, until the address grows old."""
    paths, clock = await paths_of(site), Clock()
    async with FaultProxy(site.stack.url) as proxy:
        project = Project(proxy.url, Secret(site.stack.secret_key))
        gallery = Gallery(PhotoStore(project), clock)
        first = await gallery.urls(paths)
        clock.now += FRESH_SECONDS - 1
        again = await gallery.urls([paths[1], paths[0]])
        assert len([seen for seen in proxy.seen if SIGN in seen]) == 2
        clock.now += 2
        await gallery.urls(paths)
        assert len([seen for seen in proxy.seen if SIGN in seen]) == 4
        await project.close()
    assert first == again
    assert set(first) == set(paths)
    assert VALID_SECONDS >= FRESH_SECONDS + 180


async def test_a_photo_that_is_gone_is_asked_for_again_later(site: Site) -> None:
    """A missing photo is requested only now and then, and shown once it exists."""
    (path, _), clock = await paths_of(site), Clock()
    photo = await site.fetch(path)
    bucket = site.service.storage.from_("generated-photos")
    await bucket.remove([path])
    async with FaultProxy(site.stack.url) as proxy:
        project = Project(proxy.url, Secret(site.stack.secret_key))
        gallery = Gallery(PhotoStore(project), clock)
        assert await gallery.urls([path]) == {}
        await bucket.upload(path, photo, {"content-type": "image/png"})
        clock.now += MISSING_SECONDS - 1
        assert await gallery.urls([path]) == {}
        assert len([seen for seen in proxy.seen if SIGN in seen]) == 1
        clock.now += 2
        assert set(await gallery.urls([path])) == {path}
        await project.close()


async def test_an_address_shows_the_photo(site: Site) -> None:
    """The URL needs no key."""
    paths = await paths_of(site)
    overview = await site.worker().overview()
    assert {photo["storagePath"] for photo in overview["photos"]} == set(paths)
    async with httpx.AsyncClient(trust_env=False) as http:
        for photo in overview["photos"]:
            answer = await http.get(photo["url"])
            assert answer.status_code == 200
            assert answer.content == await site.fetch(photo["storagePath"])


async def test_a_photo_that_cannot_be_signed_is_left_out(site: Site) -> None:
    """One object that has gone, or a Storage that does not answer, takes no other part of the page along."""
    paths = await paths_of(site)
    await site.service.storage.from_("generated-photos").remove([paths[0]])
    worker = site.worker()
    overview = await worker.overview()
    shown = {photo["storagePath"]: bool(photo["url"]) for photo in overview["photos"]}
    assert shown == {paths[0]: False, paths[1]: True}
    async with FaultProxy(site.stack.url) as proxy:
        proxy.inject(faults.reset, f"POST {SIGN}", times=100)
        overview = await site.worker(SUPABASE_URL=proxy.url).overview()
    assert [photo["url"] for photo in overview["photos"]] == [None, None]
    assert overview["health"]["level"] == "good"
