"""Nobody can read another user's private photo by naming its path, whichever way the order comes in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from postgrest import APIError

from tests.support.hostile import references
from tests.support.installation import User
from tests.support.proxy import Proxy
from tests.support.runs import SOURCES, Site, fresh_order, picture

SIGNED_UP = Callable[[], Awaitable[User]]


async def private_photo(site: Site, victim: User) -> str:
    """A photo that exists, in the folder of the victim."""
    path = f"{victim.id}/a.jpg"
    await site.service.storage.from_(SOURCES).upload(path, picture("crimson"), {"content-type": "image/png"})
    return f"{SOURCES}/{path}"


def ways(attacker: User, victim: User) -> list[str]:
    """Every spelling of the tables that names the victim's folder; what was made for the victim as well."""
    named = [text for _, text in references(attacker.id, victim.id, SOURCES) if victim.id in text]
    named += [text.replace(SOURCES, "generated-photos") for text in named]
    assert len(named) > 30
    return [text for text in named if "\x00" not in text]


async def test_as_a_signed_in_user(site: Site, user: SIGNED_UP) -> None:
    """With one's own token no spelling of another's path is taken, and neither is another's `userId`."""
    attacker, victim = await user(), await user()
    await private_photo(site, victim)
    for text in ways(attacker, victim):
        for order in (
            fresh_order(("a",), 1, text),
            fresh_order(("a",), 1, f"{SOURCES}/{attacker.id}/me.png", trainingImageUrls=[text]),
        ):
            with pytest.raises(APIError) as caught:
                await attacker.client.rpc("enqueue_generation_batch", {"p_request": order}).execute()
            assert caught.value.code == "PT400", text
    own = fresh_order(("a",), 1, f"{SOURCES}/{victim.id}/a.jpg", userId=victim.id)
    with pytest.raises(APIError) as caught:
        await attacker.client.rpc("enqueue_generation_batch", {"p_request": own}).execute()
    assert caught.value.details == "not_yours_to_set"
    assert site.rows("select from photo_generation_queue") == []


@pytest.mark.parametrize("owner", ["attacker", "victim"])
async def test_by_a_direct_insert_as_a_user(site: Site, user: SIGNED_UP, owner: str) -> None:
    """A signed-in user cannot write the queue's table at all, neither in their own name nor in another's."""
    attacker, victim = await user(), await user()
    row = {
        "userId": victim.id if owner == "victim" else attacker.id,
        "exampleImageUrl": await private_photo(site, victim),
        "basePrompt": "A portrait",
    }
    with pytest.raises(APIError) as caught:
        await attacker.client.table("photo_generation_queue").insert(row).execute()
    assert caught.value.code == "42501"
    assert site.rows("select from photo_generation_queue") == []


async def test_by_the_older_direct_insert(site: Site, user: SIGNED_UP) -> None:
    """Rows that an app inserts with the service key are checked by the worker: the photo is never read."""
    attacker, victim = await user(), await user()
    await private_photo(site, victim)
    named = ways(attacker, victim)
    rows = [
        {"userId": attacker.id, "exampleImageUrl": text, "basePrompt": "A portrait", "numImagesPerExample": 1}
        for text in named
    ]
    await site.service.table("photo_generation_queue").insert(rows).execute()

    async with Proxy(site.stack.url) as api:
        summary = await site.run(SUPABASE_URL=api.url, JOBS_AT_A_TIME="100")
        read = [path for path in api.paths if path.startswith("/storage/v1/object/")]

    assert (summary["claimed"], summary["failed"]) == (len(named), len(named))
    jobs = site.rows(
        'select "errorCode", "errorMessage" from photo_generation_queue where status = %s', "failed"
    )
    assert {job["errorCode"] for job in jobs} == {"foreign_photo", "bad_reference"}
    assert (read, site.calls()) == ([], [])


async def test_ones_own_photo_is_read(site: Site, user: SIGNED_UP) -> None:
    """The same ways lead to one's own photo: the refusals above are not of everything."""
    owner = await user()
    site.user = owner.id
    order = fresh_order(("a",), 1, await private_photo(site, owner))
    await owner.client.rpc("enqueue_generation_batch", {"p_request": order}).execute()
    summary = await site.run()
    assert summary["completed"] == 1
    site.audit(summary)
