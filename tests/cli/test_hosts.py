"""`python -m worker hosts`, and what `check` says about it: which hosts photos may come from."""

from __future__ import annotations

import pytest

from tests.support.command_line import CommandLine
from tests.support.runs import Site
from worker.log.secret import Secret
from worker.ops.check import check
from worker.ops.status_text import hosts_table
from worker.supabase.client import Project

OWN = {"SUPABASE_URL": "https://abc.supabase.co"}


async def test_hosts_are_listed_added_and_removed(cli: CommandLine, site: Site) -> None:
    """Each command shows the list as it is then, and the next order and run go by it."""
    assert (await cli.call("hosts", "list")).out == "* (any public host)\n"
    shown = await cli.call("hosts", "add", "photos.example.com")
    assert shown.out == "* (any public host)\nphotos.example.com\n"
    assert (await cli.call("hosts", "remove", "*", "--json")).json == {
        "hosts": ["photos.example.com"],
        "removed": True,
    }
    await cli.call("hosts", "remove", "photos.example.com")
    assert (await cli.call("hosts", "list")).out == "none: no https:// photo is accepted\n"
    assert (
        hosts_table((), "abc.supabase.co")
        == "none yet: the first run adds abc.supabase.co, this project's own"
    )
    assert (await cli.call("hosts", "list", "--json")).json == {"hosts": []}


async def test_an_address_in_place_of_a_host(cli: CommandLine, site: Site) -> None:
    """A pasted URL is refused with the host to write instead; so is removing an unknown host."""
    said = (await cli.call("hosts", "add", "https://photos.example.com/a.jpg")).complained(1)
    assert "Use the host alone: photos.example.com" in said and "bad_host" in said
    said = (await cli.call("hosts", "remove", "elsewhere.example.com")).complained(2)
    assert "'elsewhere.example.com' is not in the list: *" in said
    said = (await cli.call("hosts", "remove", "abc.supabase.co", env=OWN)).complained(2)
    assert "the project's own host" in said


async def test_check_warns_of_any_host(site: Site) -> None:
    """`*` is for updates of older installations: check says how to get rid of it."""
    found = {finding.name: finding for finding in await check(site.worker())}["hosts"]
    assert (found.state, found.message) == ("warning", "https:// photos may come from any public host")
    assert "python -m worker hosts add" in str(found.fix) and "remove '*'" in str(found.fix)
    site.db.execute("update generation.photo_hosts set host = 'photos.example.com'")
    found = {finding.name: finding for finding in await check(site.worker())}["hosts"]
    assert (found.state, found.fix) == ("ok", None) and "photos.example.com" in found.message


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://abc.supabase.co", "abc.supabase.co"),
        ("https://ABC.supabase.co:443", "abc.supabase.co"),
        ("https://supabase.example.com:8443", None),
        ("http://kong:8000", None),
    ],
)
def test_the_host_that_a_run_tells(url: str, host: str | None) -> None:
    """Only an address that a photo may have is the project's own host."""
    assert Project(url, Secret("key")).photo_host == host
