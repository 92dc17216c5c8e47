"""What a Supabase project's URL says about it."""

from __future__ import annotations

import pytest

from worker.log.secret import Secret
from worker.supabase.client import Project


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://abc.supabase.co", "abc.supabase.co"),
        ("https://abc.supabase.co:443", "abc.supabase.co"),
        ("https://abc.supabase.co:8443", None),
        ("http://127.0.0.1:54321", None),
    ],
)
def test_signed_urls_of_the_own_project_are_allowed_as_photos_if_any_url_of_its_kind_is(
    url: str, host: str | None
) -> None:
    """Photos come from https:// on its usual port only, so another host would be allowed in vain."""
    assert Project(url, Secret("key")).photo_host == host
