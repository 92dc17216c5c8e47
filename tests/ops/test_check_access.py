"""`check` compares the database's rights with what they should be, and names what puts them right."""

from __future__ import annotations

import pytest

from local.stack.stack import SQL
from tests.support.runs import Site
from worker.ops.check_access import access_finding, read_access

pytestmark = pytest.mark.usefixtures("as_installed")

# What a restore, a migration or a click may do; and what of it must be told.
OPENED = {
    "alter table photo_generation_photos disable row level security": (
        "public.photo_generation_photos: row-level security is off"
    ),
    "alter table generation.idempotency_keys disable row level security": (
        "generation.idempotency_keys: row-level security is off"
    ),
    'drop policy "own generated photos" on storage.objects': (
        'storage.objects: policy "own generated photos" is missing or changed'
    ),
    "alter policy \"own generated photos\" on storage.objects using (bucket_id = 'generated-photos')": (
        'storage.objects: policy "own generated photos" is missing or changed'
    ),
    "grant execute on function erase_generation_user to anon": (
        "erase_generation_user(text): anon may call it"
    ),
    "grant execute on function enqueue_generation_batch to public": (
        "enqueue_generation_batch(jsonb,text): anon may call it"
    ),
    "revoke execute on function claim_generation_jobs from service_role": "service_role may not call it",
    "grant update, delete on photo_generation_queue to authenticated": "authenticated may delete, update",
    'grant update ("exampleImagePrompt") on photo_generation_queue to anon': "anon may update",
    "revoke select on photo_generation_batches from authenticated": "authenticated may not select",
    "grant update on photo_generation_queue to service_role": "service_role may update",
    "grant usage on schema generation to anon": "generation: anon may use the schema",
    "grant update on sequence photo_generation_queue_id_seq to anon": (
        "sequence public.photo_generation_queue_id_seq: anon may use it"
    ),
    'drop policy "own jobs" on photo_generation_queue': 'policy "own jobs" is missing or changed',
    'alter policy "own photos" on photo_generation_photos using (true)': "is missing or changed",
    'alter policy "own photos" on photo_generation_photos to public': "is missing or changed",
}
OWN_POLICY = "create policy team on photo_generation_photos for select to authenticated using (true)"


async def test_an_installation_has_no_deviation(site: Site) -> None:
    """The check finds no deviation right after the installation."""
    assert (await access_finding(site.worker().queue, 10)).state == "ok"


@pytest.mark.parametrize("change", OPENED)
async def test_what_was_opened_or_closed_is_told_and_install_puts_it_right(site: Site, change: str) -> None:
    """Each deviation is named with its object, and install.sql, run again, is what ends it."""
    site.db.execute(change.encode())
    try:
        found = await access_finding(site.worker().queue, 10)
        assert found.state == "failed" and OPENED[change] in found.message
        assert "sql/install.sql" in str(found.fix)
    finally:
        site.stack.postgres.apply([SQL / "install.sql"])
    assert (await access_finding(site.worker().queue, 10)).state == "ok"


async def test_an_apps_own_policy_is_a_warning(site: Site) -> None:
    """The policy may be intended, so the check does not fail."""
    site.db.execute(OWN_POLICY)
    try:
        found = await access_finding(site.worker().queue, 10)
    finally:
        site.db.execute("drop policy team on photo_generation_photos")
    assert found.state == "warning" and 'policy "team"' in found.message


def test_many_deviations_are_counted() -> None:
    """After a restore nearly every function deviates: some are named, the rest counted."""
    many = [{"object": f"f{i}()", "problem": "anon may call it", "ours": True} for i in range(30)]
    message = read_access(many).message
    assert message.startswith("f0(): anon may call it; f1()") and message.endswith("; and 25 more")
