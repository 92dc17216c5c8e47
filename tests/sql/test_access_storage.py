"""Access to stored photos: users read their own folder, and only the service role writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.support.access_table import OK, STORAGE, Answer
from tests.support.callers import Caller, Callers, token_headers
from tests.support.queue_sql import Queue
from tests.support.tokens import Signer

BUCKET = "generated-photos"
BYTES = b"\x89PNG\r\n\x1a\n and what the owner paid for"
PNG = {"Content-Type": "image/png"}


class Stored:
    """An object in a user's folder, with every operation on it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.name = f"{folder}/{uuid4()}/1/0-abc.png"
        self.path = f"/storage/v1/object/{BUCKET}/{self.name}"

    def attempt(self, deed: str, caller: Caller) -> Answer:
        """How the deed is answered; lists and removals with the number of objects they found."""
        spare = f"{self.folder}/{uuid4()}.png"
        object_ = "/storage/v1/object"
        moved = {"bucketId": BUCKET, "sourceKey": self.name, "destinationKey": spare}
        asked: dict[str, tuple[str, str, object, dict[str, str]]] = {
            "download": ("GET", self.path, None, {}),
            "info": ("GET", f"{object_}/info/{BUCKET}/{self.name}", None, {}),
            "sign": ("POST", f"{object_}/sign/{BUCKET}/{self.name}", {"expiresIn": 60}, {}),
            "public": ("GET", f"{object_}/public/{BUCKET}/{self.name}", None, {}),
            "list": ("POST", f"{object_}/list/{BUCKET}", {"prefix": self.name.rpartition("/")[0]}, {}),
            "upload": ("POST", f"{object_}/{BUCKET}/{spare}", BYTES, PNG),
            "overwrite": ("PUT", self.path, b"overwritten", PNG),
            "upsert": ("POST", self.path, b"overwritten", {**PNG, "x-upsert": "true"}),
            "copy": ("POST", f"{object_}/copy", moved, {}),
            "move": ("POST", f"{object_}/move", moved, {}),
            "remove": ("DELETE", f"{object_}/{BUCKET}", {"prefixes": [self.name]}, {}),
        }
        method, path, body, headers = asked[deed]
        status, code = caller.ask(method, path, body, **headers)
        if status == 200 and deed in ("list", "remove"):
            return status, str(len(caller.read))
        return status, code


@pytest.fixture
def objects(queue: Queue) -> Iterator[Any]:
    """The rows of the bucket's objects, as they are; what a test adds goes."""

    def read() -> list[Any]:
        return queue.connection.execute(
            "select name, metadata, version from storage.objects where bucket_id = %s order by name", [BUCKET]
        ).fetchall()

    yield read
    queue.connection.execute("delete from storage.objects where bucket_id = %s", [BUCKET])


def stored(callers: Callers, folder: str) -> Stored:
    """A photo that a worker has put into a folder."""
    photo = Stored(folder)
    assert callers.service.ask("POST", photo.path, BYTES, **PNG) == OK
    return photo


@pytest.mark.parametrize("deed", STORAGE)
def test_each_caller_may_do_only_its_listed_storage_operations(
    callers: Callers, objects: Any, deed: str
) -> None:
    """Each caller gets the answer that the access table lists; a refused write changes nothing."""
    cells = STORAGE[deed]
    photo, foreign = stored(callers, callers.owner_id), stored(callers, callers.stranger_id)
    before = objects()
    assert photo.attempt(deed, callers.anon) == cells.anon
    assert photo.attempt(deed, callers.owner) == cells.own
    assert foreign.attempt(deed, callers.owner) == cells.foreign
    assert objects() == before
    assert photo.attempt("download", callers.service) == OK
    assert callers.service.answers[-1].content == BYTES
    assert photo.attempt(deed, callers.service) == cells.service


def test_folders_seen_from_above(callers: Callers, objects: Any) -> None:
    """Listing the bucket shows users their own folder, and not which other folders exist."""
    stored(callers, callers.owner_id), stored(callers, callers.stranger_id)
    assert callers.owner.ask("POST", f"/storage/v1/object/list/{BUCKET}", {"prefix": ""}) == OK
    assert {row["name"].partition("/")[0] for row in callers.owner.read} == {callers.owner_id}


@pytest.mark.parametrize(
    ("subject", "folder"),
    [
        ("victim", "victim2"),
        ("victim", "Victim"),
        ("vict_m", "victim"),
        ("victim%", "victim"),
        ("..", "victim"),
        ("victim/b", "victim"),
        ("", "victim"),
        ("a|b", "a=7Cb2"),
        ("a=7Cb", "a=7Cb"),
    ],
)
def test_subjects_that_look_like_a_folder(
    callers: Callers, objects: Any, signer: Signer, subject: str, folder: str
) -> None:
    """A folder is a user's by its whole name, letter by letter: no prefix, pattern or way up opens it."""
    photo = stored(callers, folder)
    nosy = Caller(callers.anon.http, token_headers(signer.stack, signer.sign(sub=subject)))
    assert photo.attempt("download", nosy) == STORAGE["download"].foreign
    assert photo.attempt("list", nosy) == STORAGE["list"].foreign


def test_ids_that_a_path_cannot_carry(callers: Callers, objects: Any, signer: Signer) -> None:
    """A third party's id like `auth0|7` has its folder under the escaped name, and reads it."""
    photo = stored(callers, "auth0=7C7")
    caller = Caller(callers.anon.http, token_headers(signer.stack, signer.sign(sub="auth0|7")))
    assert photo.attempt("download", caller) == OK


def test_only_the_service_role_can_see_or_change_the_private_bucket(callers: Callers, objects: Any) -> None:
    """No other role can empty or remove the bucket either."""
    stored(callers, callers.owner_id)
    path, before = f"/storage/v1/bucket/{BUCKET}", objects()
    for caller in (callers.anon, callers.owner):
        assert caller.ask("GET", path)[0] == 400
        assert caller.ask("PUT", path, {"public": True})[0] == 400
        assert caller.ask("DELETE", path)[0] == 400
        caller.ask("POST", f"{path}/empty", {})
        caller.ask("POST", "/storage/v1/bucket", {"id": BUCKET, "name": BUCKET, "public": True})
    assert objects() == before
    assert callers.service.ask("GET", path) == OK
    assert callers.service.read["public"] is False
