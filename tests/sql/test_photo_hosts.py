"""Hosts that https:// photos may come from: checked at an order, and given to every run."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.support.databases import Database
from tests.support.queue_sql import Queue, order, refused

INSERT = """
    insert into photo_generation_queue ("userId", "exampleImageUrl", "trainingImageUrls", "basePrompt")
    values ('user-1', %s, to_jsonb(array[%s]), 'A portrait')"""
OWN = "training-photos/user-1/me.jpg"


def allow(queue: Queue, *hosts: str) -> None:
    """Photos may come from these hosts and from no other."""
    queue.connection.execute("delete from generation.photo_hosts")
    for host in hosts:
        queue.call("add_generation_photo_host", p_host=host)


def photo_refusal(queue: Queue, url: str) -> str:
    """The hint with which a photo's host is refused."""
    with pytest.raises(psycopg.Error) as caught:
        queue.enqueue(trainingImageUrls=[url])
    assert caught.value.diag.message_detail == "photo_host_not_allowed"
    return str(caught.value.diag.message_hint)


@pytest.mark.parametrize(
    ("allowed", "host", "taken"),
    [
        ("photos.example.com", "photos.example.com", True),
        ("photos.example.com", "PHOTOS.Example.com:443", True),
        ("photos.example.com", "evil.photos.example.com", False),
        ("photos.example.com", "photos.example.com.evil.com", False),
        ("photos.example.com", "example.com", False),
        ("*.cdn.example.com", "a.cdn.example.com", True),
        ("*.cdn.example.com", "b.a.cdn.example.com", True),
        ("*.cdn.example.com", "cdn.example.com", False),
        ("*.cdn.example.com", "evilcdn.example.com", False),
        ("*", "anything.example.net", True),
    ],
)
def test_hosts_are_compared_as_names(queue: Queue, allowed: str, host: str, taken: bool) -> None:
    """A name is itself, `*.name` everything below it, and `*` any public host."""
    allow(queue, allowed)
    url = f"https://{host}/me.jpg"
    if taken:
        assert queue.enqueue(trainingImageUrls=[url])["jobsEnqueued"] == 1
        return
    with refused("400", "photo_host_not_allowed", "trainingImageUrls[0]"):
        queue.enqueue(trainingImageUrls=[url])


def test_a_refusal_names_the_command_that_allows_the_host(queue: Queue) -> None:
    """Nobody has to read documentation to let photos come from a host."""
    allow(queue)
    with pytest.raises(psycopg.Error) as caught:
        queue.enqueue(exampleImages=[{"url": "https://photos.example.com/a.jpg"}])
    assert caught.value.diag.message_detail == "photo_host_not_allowed"
    assert "exampleImages[0].url" in str(caught.value.diag.message_primary)
    assert "python -m worker hosts add photos.example.com" in str(caught.value.diag.message_hint)
    assert set(queue.written().values()) == {0}


def test_before_the_first_run_the_projects_own_host_can_be_allowed_as_the_refusal_says(queue: Queue) -> None:
    """Before the first run, the refusal names both ways: a command, or a run."""
    allow(queue)
    queue.connection.execute("delete from generation.runs")
    public = "https://abc.supabase.co/storage/v1/object/public/photos/me.jpg"
    hint = photo_refusal(queue, public)
    assert hint.endswith(
        "python -m worker hosts add abc.supabase.co. The project's own host is added by the first run."
    )
    queue.call("add_generation_photo_host", p_host=hint.split("hosts add ")[1].split(". ")[0])
    assert queue.enqueue(trainingImageUrls=[public])["jobsEnqueued"] == 1
    queue.run().claim()
    assert photo_refusal(queue, "https://other.example.com/a").endswith(
        "python -m worker hosts add other.example.com"
    )


@pytest.mark.parametrize(
    "url", ["https://10.0.0.1/a", "https://localhost/a", "https://a.internal/a", "https://a.com:8443/a"]
)
def test_a_star_opens_nothing_inside(queue: Queue, url: str) -> None:
    """`*` means public hosts: internal addresses and names are still refused."""
    allow(queue, "*")
    with refused("400", "forbidden_address"):
        queue.enqueue(trainingImageUrls=[url])


@pytest.mark.parametrize("values", [("https://evil.example.net/a", OWN), (OWN, "https://evil.example.net/a")])
def test_rows_that_an_app_inserts_are_checked_too(queue: Queue, values: tuple[str, str]) -> None:
    """The way around enqueue is closed as well; what is not an https:// address is judged by the worker."""
    allow(queue, "photos.example.com")
    with refused("400", "photo_host_not_allowed"):
        queue.connection.execute(INSERT, values)
    queue.connection.execute(INSERT, ("https://photos.example.com/a", OWN))
    queue.connection.execute(INSERT, ("http://photos.example.com/a", OWN))


def test_every_claim_tells_the_hosts(queue: Queue) -> None:
    """A run knows from its claim where photos may come from, so that redirects are judged alike."""
    allow(queue, "photos.example.com", "*.cdn.example.com")
    queue.enqueue()
    assert queue.run().answer()["photoHosts"] == ["*.cdn.example.com", "photos.example.com"]
    assert queue.call("generation_schema_version")["photoHosts"] == [
        "*.cdn.example.com",
        "photos.example.com",
    ]


def test_the_first_run_adds_the_projects_own_host(queue: Queue) -> None:
    """The database does not know its own address; a run says it, with work or without, and it stays."""
    allow(queue)
    assert queue.run().answer(p_photo_host="abc.supabase.co")["reason"] == "queue_empty"
    queue.enqueue(trainingImageUrls=["https://abc.supabase.co/storage/v1/object/sign/me.jpg"])
    assert queue.run().answer(p_photo_host="abc.supabase.co")["photoHosts"] == ["abc.supabase.co"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "kong", "supabase.internal", "", "*", None])
def test_a_stack_on_ones_own_machine_adds_nothing(queue: Queue, host: str | None) -> None:
    """A host that cannot serve photos is ignored without an error."""
    allow(queue)
    queue.enqueue()
    assert queue.run().answer(p_photo_host=host)["photoHosts"] == []


def test_hosts_are_added_and_removed(queue: Queue) -> None:
    """Adding and removing can be repeated; both return the list and whether it changed."""
    allow(queue)
    assert queue.call("generation_photo_hosts") == {"hosts": []}
    add = {"hosts": ["photos.example.com"], "added": True}
    assert queue.call("add_generation_photo_host", p_host=" Photos.Example.com ") == add
    assert queue.call("add_generation_photo_host", p_host="photos.example.com") == add | {"added": False}
    assert queue.call("remove_generation_photo_host", p_host="photos.example.com") == {
        "hosts": [],
        "removed": True,
    }
    assert queue.call("remove_generation_photo_host", p_host="photos.example.com") == {
        "hosts": [],
        "removed": False,
    }


@pytest.mark.parametrize(
    ("host", "hint"),
    [
        ("https://photos.example.com/a.jpg", "Use the host alone: photos.example.com"),
        ("photos.example.com/a", "Use the host alone: photos.example.com"),
        ("photos.example.com:443", "Use the host alone: photos.example.com"),
        ("https://me@photos.example.com:443", "Use the host alone: photos.example.com"),
        ("https://*.example.com/", "Use the host alone: *.example.com"),
        ("127.0.0.1", "Name a host like"),
        ("*.com", "Name a host like"),
        ("photos.*.com", "Name a host like"),
        ("bücher.example", "Name a host like"),
        ("db.internal", "Name a host like"),
        ("", "Name a host like"),
        (None, "Name a host like"),
    ],
)
def test_what_is_no_host(queue: Queue, host: str | None, hint: str) -> None:
    """For a pasted URL, the message says what to write instead."""
    for function in ("add_generation_photo_host", "remove_generation_photo_host"):
        with pytest.raises(psycopg.Error) as caught:
            queue.call(function, p_host=host)
        assert (caught.value.sqlstate, caught.value.diag.message_detail) == ("PT400", "bad_host")
        assert hint in str(caught.value.diag.message_hint)


def hosts(made: Database) -> list[str]:
    """The hosts that are allowed there."""
    return list(Queue(made.connection).call("generation_photo_hosts")["hosts"])


def test_a_fresh_installation_asks_nobody(installed: Database) -> None:
    """No host is allowed before the operator or the first run names one."""
    assert hosts(installed) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"exampleImages": [{"url": "https://photos.example.com/a.jpg"}]}, ["*"]),
        ({"trainingImageUrls": [OWN, "https://photos.example.com/me.jpg"]}, ["*"]),
    ],
)
def test_an_update_breaks_no_app_that_orders_from_other_hosts(
    earlier: Callable[[str], Database], fields: dict[str, object], expected: list[str]
) -> None:
    """An older installation with orders from other hosts still allows any; a list stays."""
    made = earlier("0.1.0")
    queue = Queue(made.connection)
    queue.call("enqueue_generation_batch", p_request=order(**fields))  # type: ignore[arg-type]
    made.install()
    assert hosts(made) == expected
    queue.call("add_generation_photo_host", p_host="photos.example.com")
    queue.call("remove_generation_photo_host", p_host="*")
    made.install()
    assert hosts(made) == ["photos.example.com"]
