"""Nothing that a customer names makes the worker reach into its own network or another user's folder."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any

import httpcore
import psycopg
import pytest

from tests.support.hostile import ADDRESSES, UNSEEN_OR_LONG, URLS, USER, reached, references
from tests.support.photo_host import (
    ADDRESS,
    HOST,
    OTHER_HOST,
    URL,
    Authority,
    Loopback,
    Names,
    PhotoHost,
    World,
    reply,
    web_fetcher,
)
from tests.support.queue_sql import Queue, order
from worker.errors import BadInput
from worker.photos.dns import resolve
from worker.photos.download import PhotoDownload

# What the database does not refuse: it trims (nothing is wrong then), does not encode, and cannot be sent NUL
# or half a character.
NOT_THE_DATABASE = re.compile(r"^ | $|ü{1000}|\x00|\ud800")
BUCKET = "training-photos"


def test_the_tables_are_large_enough() -> None:
    """Each has at least 60 different lines."""
    for table in (URLS, ADDRESSES, [*references(), *UNSEEN_OR_LONG]):
        assert len(set(table)) == len(table) >= 60


async def test_no_url_is_even_looked_up() -> None:
    """A fetcher as in production refuses every hostile URL and reference before any lookup or connection."""
    web = PhotoDownload()
    fetcher = web_fetcher(web, "uploads")
    hostile = [*(url for _, url in URLS), *UNSEEN_OR_LONG, *(text for _, text in references())]
    with reached() as found:
        for reference in hostile:
            with pytest.raises(BadInput):
                await fetcher.fetch(reference, USER)
    await web.close()
    assert found == []


async def test_the_recorder_sees_what_a_fetch_does() -> None:
    """The recorder of the other tests sees the lookup and the connection of a fetch that is let through."""
    with reached() as found:
        await resolve("localhost")
        with pytest.raises((httpcore.ConnectError, OSError)):
            await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", 9, 1)
    assert any(entry.startswith("socket.getaddrinfo ") for entry in found), found
    assert any(entry.startswith("socket.connect ") for entry in found), found


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("others", [[], [ADDRESS]], ids=["alone", "beside a public one"])
async def test_no_hostile_address_is_connected_to(address: str, others: list[str]) -> None:
    """A host is refused whole if any of its addresses is not public; the network is the real one."""
    answers = iter([[*others, address], [address, *others]])

    async def resolver(_host: str) -> list[str]:
        return next(answers)

    web = PhotoDownload(resolver=resolver)
    fetcher = web_fetcher(web)
    with reached() as found:
        for _ in range(2):
            with pytest.raises(BadInput, match="photo_host_unknown"):
                await fetcher.fetch(URL, USER)
    await web.close()
    assert found == []


async def test_a_server_inside_gets_no_byte(authority: Authority) -> None:
    """Real servers on loopback are never connected to, whatever name leads to them."""
    with socket.create_server(("127.0.0.1", 0)) as inside:
        inside.settimeout(0)
        port = inside.getsockname()[1]
        host, names = PhotoHost(), Names()
        host.port = port
        names.table |= {HOST: [["127.0.0.1"]], OTHER_HOST: [["::ffff:127.0.0.1"]]}
        network = Loopback(host)
        web = PhotoDownload(resolver=names, network=network, tls=authority.client)
        fetcher = web_fetcher(web)
        for url, code in (
            (f"https://{HOST}/", "photo_host_unknown"),
            (f"https://{OTHER_HOST}/", "photo_host_unknown"),
            ("https://127.0.0.1/", "forbidden_address"),
            (f"https://{HOST}:{port}/", "forbidden_address"),
        ):
            with pytest.raises(BadInput, match=code):
                await fetcher.fetch(url, USER)
        with pytest.raises(BlockingIOError):
            inside.accept()
        assert network.dialled == []


# Relative ones lead back to the same public host: they are fetched, and that is right.
ABSOLUTE = [url for _, url in URLS if re.match(r"[a-z]+://[^/?#]", url, re.I | re.A) and "\\" not in url]


async def test_no_redirect_leads_there(world: World) -> None:
    """A redirect to a hostile URL is refused on the spot, also as the second hop."""
    assert len(ABSOLUTE) > 100
    for url in ABSOLUTE:
        answer = reply(status=302, location=url.encode().decode("latin-1"))
        for hops in ({"/album/me.jpg": answer},
                     {"/album/me.jpg": reply(status=301, location="/next"), "/next": answer}):  # fmt: skip
            world.host.answers = dict(hops)
            failure = await world.failure()
            assert isinstance(failure, BadInput) and failure.code in ("forbidden_address", "bad_url"), url
    assert set(world.network.dialled) == {ADDRESS}
    assert set(world.names.asked) == {HOST}


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "fd00:ec2::254"])
async def test_each_hop_is_looked_up_and_checked(world: World, address: str) -> None:
    """The host that a redirect leads to is checked as the first was, before anything is sent there."""
    world.names.table[OTHER_HOST] = [[address]]
    world.host.answers["/album/me.jpg"] = reply(status=302, location=f"https://{OTHER_HOST}/a")
    assert (await world.failure()).code == "photo_host_unknown"
    assert world.names.asked == [HOST, OTHER_HOST]
    assert world.network.dialled == [ADDRESS]


def hostile_orders() -> Iterator[str]:
    """Every URL and reference of the tables that can be asked of the database."""
    texts = [*(url for _, url in URLS), *UNSEEN_OR_LONG, *(text for _, text in references(bucket=BUCKET))]
    return (text for text in texts if not NOT_THE_DATABASE.search(text))


@pytest.mark.parametrize("field", ["trainingImageUrls", "exampleImages"])
def test_the_database_refuses_it(queue: Queue, field: str) -> None:
    """The same tables are refused when the order is placed, so that the customer learns it at once."""
    for reference in hostile_orders():
        value: Any = [reference] if field == "trainingImageUrls" else [{"url": reference}]
        with pytest.raises(psycopg.Error) as caught:
            queue.call("enqueue_generation_batch", p_request=order(USER) | {field: value})
        assert caught.value.sqlstate == "PT400", reference
        assert (caught.value.diag.message_primary or "").startswith(f"{field}[0]"), reference
    assert set(queue.written().values()) == {0}
